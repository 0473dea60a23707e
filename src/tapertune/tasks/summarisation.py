"""Summarisation: XSum (Narayan et al., 2018), CNN/DailyMail (Hermann et al., 2015; See et al., 2017) and SAMSum
(Gliwa et al., 2019), scored by ROUGE.

They run with encoder-decoders (``kind: seq2seq``, the default, as in the papers compared here) and with decoders.
"""

from __future__ import annotations

from .generation import Decoding, GenerationTask

_METRICS = ("rouge1", "rouge2", "rougeL")

SUMMARISATION = (
    GenerationTask(
        name="xsum",
        title="Extreme Summarization (BBC)",
        kind="seq2seq",
        text=("document",),
        label="summary",
        instruction="Summarize the following article in one sentence.",
        metrics=_METRICS,
        hub=("EdinburghNLP/xsum", "default"),
        evaluation=("validation", "test"),
        max_length=768,
        max_answer_length=64,
        decoding=Decoding(num_beams=8, max_new_tokens=64),
    ),
    GenerationTask(
        name="cnn_dailymail",
        title="CNN/DailyMail",
        kind="seq2seq",
        text=("article",),
        label="highlights",
        instruction="Summarize the following article in a few sentences.",
        metrics=_METRICS,
        hub=("abisee/cnn_dailymail", "3.0.0"),
        evaluation=("validation", "test"),
        max_length=1024,
        max_answer_length=160,
        decoding=Decoding(num_beams=4, max_new_tokens=160),
    ),
    GenerationTask(
        name="samsum",
        title="SAMSum",
        kind="seq2seq",
        text=("dialogue",),
        label="summary",
        instruction="Summarize the following conversation.",
        metrics=_METRICS,
        hub=("knkarthick/samsum", "default"),
        evaluation=("validation", "test"),
        max_length=512,
        max_answer_length=96,
        decoding=Decoding(num_beams=4, max_new_tokens=96),
    ),
)
