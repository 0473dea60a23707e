"""The hosts: programs that people train with, and how each is installed beside tapertune and tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """A program.

    Attributes:
        name: as on the page.
        requires: what the resolver is given.
        script: of ``inside/``, which trains in the host.
        without: packages that the host asks for and that this check leaves out: those of CUDA, and what a processor
            alone cannot use.
        also: more that the resolver is given.
        stripped: folders of site-packages that are taken out again: compiled for CUDA alone.
        bare: the host is installed without its dependencies, which are read from its metadata: it asks for a newer
            Python than some that it runs with.
        way: how tapertune is used in it.
        gaps: what is known not to work.
    """

    name: str
    requires: str
    script: str
    way: str
    without: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    stripped: tuple[str, ...] = ()
    bare: bool = False
    gaps: str = ""

    @property
    def package(self) -> str:
        return self.requires.partition("==")[0].partition("[")[0]


# 5.24 puts adapters into its models (`add_adapter`), plain LoRA too, with PEFT 0.22 and later alone.
PUTS_ADAPTERS_IN = ("transformers<5.24",)
ASKS_FOR_PEFT = "transformers 5.24's `add_adapter` asks for PEFT 0.22, for LoRA as well"
CUDA = ("triton", "xformers", "liger-kernel", "fla-core", "flash-linear-attention")

HOSTS = (
    Host("TRL", "trl", "trl_trains", "`peft_config=` and `callbacks=` of its trainers"),
    Host(
        "sentence-transformers", "sentence-transformers", "sentence_transformers_trains",
        "`model.add_adapter(config)` and `callbacks=`", also=PUTS_ADAPTERS_IN, gaps=ASKS_FOR_PEFT,
    ),
    Host(
        "lm-eval", "lm-eval[hf]", "lm_eval_reads", "`--model_args pretrained=BASE,peft=FOLDER`",
        gaps="reads adapters, trains none",
    ),
    Host("ms-swift", "ms-swift==4.6.0", "ms_swift_trains", "`--external_plugins` and `--tuner_type tapertune_METHOD`"),
    Host(
        "axolotl", "axolotl==0.21.0", "axolotl_trains", "`plugins:` and `adapter: tapertune`", without=CUDA, bare=True,
        gaps="tried under Python 3.11, which axolotl does not name, without its CUDA kernels",
    ),
    Host(
        "LLaMA-Factory", "llamafactory==0.9.5", "llamafactory_trains",
        "`adapter_name_or_path:` of a start adapter, and `TAPERTUNE_CALLBACK=1`", without=("torchvision",),
        stripped=("torchaudio/lib",),
        gaps="makes only LoRA and OFT itself; tried without torchvision and torchaudio's compiled code",
    ),
    Host(
        "SetFit", "setfit", "setfit_trains", "`model.model_body.add_adapter(config)` and `callbacks=`",
        also=PUTS_ADAPTERS_IN,
        gaps=f"{ASKS_FOR_PEFT}; SetFit 1.2 reads what it saves with an adapter (LoRA too) once `config.json` is gone",
    ),
    Host(
        "diffusers", "diffusers", "diffusers_trains", "`get_peft_model` and `attach` in a plain loop",
        gaps="`load_lora_adapter` and `load_lora_weights` read LoRA alone: `tapertune export` first",
    ),
)  # fmt: skip
