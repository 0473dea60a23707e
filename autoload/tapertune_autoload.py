"""Has PEFT know tapertune's methods in programs that import PEFT and not tapertune.

Python runs this file whenever it starts, by way of ``tapertune_autoload.pth`` beside it: so it imports nothing that is
not there already, and puts one function in front of the search for modules. Where PEFT is looked for, tapertune is
imported, which registers with PEFT once that has been imported. ``TAPERTUNE_AUTOLOAD=0`` switches it off.
"""

import os
import sys


def find_spec(fullname, path=None, target=None):
    """PEFT as the other finders of ``sys.meta_path`` find it, with the registration added to its loading."""
    if fullname != "peft":
        return None
    try:
        from tapertune import _lazy
    except ModuleNotFoundError:
        return None  # tapertune was removed
    except Exception as error:  # whatever it is, PEFT is not to suffer
        import warnings

        reason = " ".join(str(error).split())
        warnings.warn(
            f"tapertune cannot be imported: {reason}. TAPERTUNE_AUTOLOAD=0 keeps it from being tried", stacklevel=2
        )
        return None
    finally:
        if THIS in sys.meta_path:
            sys.meta_path.remove(THIS)
    return _lazy.find_for_others(fullname, path, target)


THIS = sys.modules[__name__]

if os.environ.get("TAPERTUNE_AUTOLOAD", "").strip().lower() not in ("0", "off", "false", "no"):
    sys.meta_path.insert(0, THIS)
