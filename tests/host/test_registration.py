"""Being a method of PEFT's: the enum member, the registry, and what happens when PEFT changes."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import pytest
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from tapertune.host import config_class, register, registration, tuner_class
from tapertune.methods import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_a_real_member_of_the_enum(name: str) -> None:
    member = PeftType[METHODS[name].peft_name.upper()]
    assert member == f"TAPERTUNE_{name.upper()}" and member.value == member.name
    assert PeftType(member.value) is member and member in list(PeftType)
    assert pickle.loads(pickle.dumps(member)) is member is copy.deepcopy(member)
    assert json.loads(json.dumps({"peft_type": member})) == {"peft_type": member.value}
    assert PEFT_TYPE_TO_CONFIG_MAPPING[member] is config_class(name)
    assert PEFT_TYPE_TO_TUNER_MAPPING[member] is tuner_class(name)
    assert PEFT_TYPE_TO_PREFIX_MAPPING[member] == f"tapertune_{name}_"


def test_pefts_own_methods_are_untouched() -> None:
    from peft import AdaLoraConfig, LoraConfig

    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.LORA] is LoraConfig
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.ADALORA] is AdaLoraConfig
    before = dict(PEFT_TYPE_TO_CONFIG_MAPPING)
    register()
    assert before == PEFT_TYPE_TO_CONFIG_MAPPING


def test_a_changed_peft_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**kwargs: object) -> None:
        raise ValueError("no more methods")

    monkeypatch.setattr(registration, "register_peft_method", refuse)
    for member in [PeftType[row.peft_name.upper()] for row in METHODS.values()]:
        monkeypatch.delitem(PEFT_TYPE_TO_CONFIG_MAPPING, member)
    with pytest.raises(ImportError, match=r"cannot register its methods with peft 0\..*no more methods"):
        register()


def test_importing_alone_is_light() -> None:
    code = "import tapertune, sys; print([m for m in ('torch', 'peft', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
