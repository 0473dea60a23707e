from __future__ import annotations

from pathlib import Path

import pytest
from benchmark.show.made import session

from tapertune.benchmark.setting import Setting
from tapertune.benchmark.show.markdown import PARTS
from tapertune.benchmark.show.page import PAGE, write_page
from tapertune.errors import TapertuneError

ROOT = Path(__file__).parents[3]


def test_the_committed_page_can_be_filled_again(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text((ROOT / PAGE).read_text(encoding="utf-8"), encoding="utf-8")
    written = write_page(session(), page)
    assert [path.name for path in written] == ["performance.md", "speed.png", "memory.png", "taper.png"]
    assert all(path.stat().st_size > 1000 for path in written)
    once = page.read_text(encoding="utf-8")
    assert "| 1.10 [1.09-1.12], +54 MB |" in once
    write_page(session(), page)
    assert page.read_text(encoding="utf-8") == once


def test_other_settings_fill_a_part_of_their_own(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text((ROOT / PAGE).read_text(encoding="utf-8"), encoding="utf-8")
    write_page(session(), page)
    before = page.read_text(encoding="utf-8")
    for device, dtype, part in (("cpu", "bfloat16", "bfloat16"), ("cuda", "bfloat16", "cuda")):
        made = session()
        made.setting = Setting.model_validate({"device": device, "dtype": dtype})
        assert write_page(made, page) == [page]
        text = page.read_text(encoding="utf-8")
        table = text.split(f"<!-- {part}:start -->")[1].split(f"<!-- {part}:end -->")[0]
        assert "| PEFT or naive, bert-6x384 | now, bert-6x384 | PEFT or naive, bert-12x768 | now" in table
        assert "Measured with: " + made.setting.describe() in table
        assert "| LoRA r=8 | 1.01 [1.00-1.03], +54 MB | 1.10 [1.09-1.12], +54 MB |" in table
    assert page.read_text(encoding="utf-8").split("## In bfloat16")[0] == before.split("## In bfloat16")[0]


def test_pictures_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    pictures = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        page = tmp_path / name / "performance.md"
        page.write_text("".join(f"<!-- {part}:start -->\n<!-- {part}:end -->\n" for part in PARTS))
        pictures.append([path.read_bytes() for path in write_page(session(), page)])
    assert pictures[0] == pictures[1]


def test_a_page_without_a_marker_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("nothing\n")
    with pytest.raises(TapertuneError, match="machine:start"):
        write_page(session(), page)
    with pytest.raises(TapertuneError, match="cannot read"):
        write_page(session(), tmp_path / "none.md")
