"""Tokenizers of whole words and models of random weights, small enough to generate in no time."""

from __future__ import annotations

from typing import Any

WORDS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "add", "and", "is", "the", "sum",
    "of", "apples", "user", "assistant", "system",
)  # fmt: skip
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<|turn|>", "<|end|>")
TEMPLATE = (
    "{% for m in messages %}<|turn|> {{ m['role'] }} {{ m['content'] }} <|end|> \n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|> assistant {% endif %}"
)
PLAIN_TASK: dict[str, Any] = {"name": "own", "text": ("q",), "label": "a", "metrics": ("exact_match",)}


def tokenizer(*, before: str = "<s> ", behind: str = "", chat: str | None = None, end: str = "</s>") -> Any:
    """Words and digits; tokens of their own before and behind a text; characters it has not are ``<unk>``."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *WORDS, *"0123456789#:.=+"))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[0-9#:.=+]"), "isolated")]
    )
    special = [(token, number) for number, token in enumerate(SPECIAL)]
    made.post_processor = processors.TemplateProcessing(single=f"{before}$A{behind}", special_tokens=special)
    found = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token=end,
        additional_special_tokens=["<|turn|>", "<|end|>"],
    )
    found.chat_template = chat
    return found


def llama(seed: int = 0, positions: int = 128, width: int = 32) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=width,
        intermediate_size=width * 2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.6,  # so that random weights write something else for each prompt
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    return LlamaForCausalLM(config).eval()


def t5() -> Any:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer()),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        initializer_factor=3.0,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).eval()


def bart() -> Any:
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer()),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        init_std=0.6,
        dropout=0.0,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
        forced_eos_token_id=3,
    )
    return BartForConditionalGeneration(config).eval()
