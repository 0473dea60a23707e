from __future__ import annotations

from collections.abc import Callable

import pytest

from tapertune.cost.budget import read_count, read_memory, read_minutes
from tapertune.errors import TapertuneError


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (read_memory, "24GiB", 24 * 2**30),
        (read_memory, "24 gib", 24 * 2**30),
        (read_memory, "24GB", 24 * 10**9),
        (read_memory, "24gb", 24 * 10**9),
        (read_memory, " 1.5 TiB ", 3 * 2**39),
        (read_memory, "800MB", 800 * 10**6),
        (read_count, "0.2m", 200_000),
        (read_count, "0.2 M", 200_000),
        (read_count, "1.5B", 1_500_000_000),
        (read_count, "83232", 83_232),
        (read_minutes, "30", 30),
        (read_minutes, "30 min", 30),
        (read_minutes, "2H", 120),
    ],
)
def test_sizes_as_people_write_them(read: Callable[[str], float], text: str, value: float) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (read_memory, "24", r"--memory is '24'; it must be a size above 0 such as 24GiB"),
        (read_memory, "24g", r"no unit is called 'g'; did you mean 24GB\?"),
        (read_memory, "24gig", r"no unit is called 'gig'; Allowed: b, kb"),
        (read_memory, "0GiB", "a size above 0"),
        (read_memory, "-3GiB", "a size above 0"),
        (read_memory, "lots", "a size above 0"),
        (read_memory, "nanGiB", "a size above 0"),
        (read_count, "0.2MB", "no unit is called 'MB'"),
        (read_count, "", "a number above 0"),
        (read_minutes, "0", "minutes above 0"),
        (read_minutes, "3 days", "no unit is called 'days'"),
    ],
)
def test_others_are_refused_in_a_line(read: Callable[[str], float], text: str, words: str) -> None:
    with pytest.raises(TapertuneError, match=words) as caught:
        read(text)
    assert "\n" not in str(caught.value)
