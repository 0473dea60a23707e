"""Makes the methods known to PEFT. The one file that reaches into PEFT's registry.

PEFT names its methods in an enum that it offers no way to extend. A real member is added for each method: code that
asks for ``.value``, JSON, pickling and copying then work as for PEFT's own. If PEFT's internals change, this fails at
import with a message, rather than somewhere inside a save.
"""

from __future__ import annotations

from peft.utils.peft_types import PeftType, register_peft_method

from ..methods import METHODS
from .config import config_class
from .model import tuner_class


def peft_type(name: str) -> PeftType:
    """The enum member of that name, added where it is missing."""
    if name in PeftType.__members__:
        return PeftType[name]
    try:
        member = str.__new__(PeftType, name)
        member._name_ = name
        member._value_ = name
        member._sort_order_ = len(PeftType.__members__)  # type: ignore[attr-defined]
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
        type.__setattr__(PeftType, name, member)
    except (AttributeError, TypeError) as error:
        raise _changed(f"its enum of methods cannot be extended ({error})") from error
    if PeftType(name) is not member or PeftType[name] is not member or name not in list(PeftType):
        raise _changed("an added method is not found in its enum")
    return member


def register() -> None:
    """Registers every row of ``METHODS`` with PEFT; a second call changes nothing."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    for method in METHODS.values():
        member = peft_type(method.peft_name.upper())
        if member in PEFT_TYPE_TO_CONFIG_MAPPING:
            continue
        try:
            register_peft_method(
                name=method.peft_name, config_cls=config_class(method.name), model_cls=tuner_class(method.name)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _changed(f"register_peft_method refused {method.peft_name!r} ({error})") from error


def _changed(what: str) -> ImportError:
    import peft

    return ImportError(
        f"tapertune cannot register its methods with peft {peft.__version__}: {what}. "
        "Versions from 0.18 are known to work"
    )
