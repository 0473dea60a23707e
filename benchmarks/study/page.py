"""Writes docs/study.md and its pictures from the study's records: ``python benchmarks/study/page.py --data DIR``.

What has no record yet is left out or named as missing, so that the page can be written at any time. DIR/TASK/ holds
each task's official files: what a run is called in the store goes with the rows that it was given.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tapertune.compare.grid import load_grid
from tapertune.compare.jobs import make_comparison
from tapertune.compare.points import short
from tapertune.compare.report import report_sections
from tapertune.compare.rule import rule_of
from tapertune.compare.selection import cell_of
from tapertune.compare.statistics import rate_curve
from tapertune.compare.store import Store
from tapertune.files import write_text
from tapertune.report.grid_page import Section, grid_markdown, write_pictures

ROOT = Path(__file__).resolve().parents[2]
GRIDS = Path(__file__).parent
PAGE = ROOT / "docs" / "study.md"
PICTURES = ROOT / "docs" / "images" / "study"
BETWEEN = re.compile(r"(?<=<!-- study:start -->\n).*?(?=<!-- study:end -->)", re.DOTALL)


def sections_of(grid: Path, data: Path, scratch: Path) -> list[Section]:
    """What the report of a grid says of the records so far."""
    comparison = make_comparison(load_grid(grid), data, scratch)
    return report_sections(comparison, Store(GRIDS / "records"), rule_of(comparison))[1]


def scores_by_rate(grid: Path, data: Path, scratch: Path) -> Section:
    """Selection and test score of every run of the screen, by rate: what there is before a row is complete."""
    comparison = make_comparison(load_grid(grid), data, scratch)
    records = Store(GRIDS / "records").records()
    rows = []
    for task, row in comparison.cells():
        curve = rate_curve(cell_of(comparison, records, row, task))
        texts = [f"{short(p.rate)}: {_hundredths(p.selection)} / {_hundredths(p.test)}" for p in curve]
        if texts:
            rows.append([task, row, ", ".join(texts)])
    notes = ["Scores times 100 with the first seed, chosen from and test; of the test no choice is made."]
    return Section(title="By learning rate", header=["task", "row", "rate: selection / test"], rows=rows, notes=notes)


def _hundredths(score: float | None) -> str:
    return "diverged" if score is None else f"{100 * score:.1f}"


def begun(section: Section) -> Section:
    """A section without the rows of which nothing is recorded."""
    return dataclasses.replace(section, rows=[row for row in section.rows if not row[1].startswith("0 of ")])


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The sections one level below the page's own headings, with links to pictures."""
    names = write_pictures(PICTURES, sections)
    links = {chart: f"images/{PICTURES.name}/{name}" for chart, name in names.items()}
    return re.sub(r"^#", "##", grid_markdown(title, sections, links), flags=re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tasks' official files")
    parser.add_argument("grids", nargs="*", type=Path, default=sorted(GRIDS.glob("*.yaml")), help="grids to report")
    given = parser.parse_args()
    for old in PICTURES.glob("*.svg"):
        old.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        parts = []
        for grid in given.grids:
            sections = [begun(section) for section in sections_of(grid, given.data, Path(scratch))]
            parts.append(markdown(grid.stem, [scores_by_rate(grid, given.data, Path(scratch)), *sections]))
    text = PAGE.read_text(encoding="utf-8")
    assert len(BETWEEN.findall(text)) == 1, f"{PAGE.name} has the two markers once, on lines of their own"
    write_text(PAGE, BETWEEN.sub(lambda _: "\n" + "\n".join(parts) + "\n", text))
    print(PAGE)


if __name__ == "__main__":
    main()
