from __future__ import annotations

from tapertune.benchmark.peak_memory import peak_rss
from tapertune.benchmark.setting import Setting


def test_peak_is_of_a_process_of_its_own(setting: Setting) -> None:
    # a step over 2048 tokens keeps some 50 MB that one over 32 does not
    long = setting.model_copy(update={"batch": 16, "length": 128})
    assert peak_rss("bert-2x128", "floor", long) > peak_rss("bert-2x128", "floor", setting) > 100 * 2**20
