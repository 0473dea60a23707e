"""Charts and pages of grids of runs: whole drawings, escaped names, pictures that stand alone."""

from __future__ import annotations

import re
import xml.dom.minidom
from pathlib import Path

from tapertune.report.drawing import Chart
from tapertune.report.grid_page import Section, grid_html, grid_markdown, standalone, write_pictures
from tapertune.report.grids import Mark, bars, log_chart
from tapertune.report.svg import Line

NAME = "a <b> & c"
LINES = [Line(label=NAME, points=[(1e-4, 60.0), (1e-3, 80.0), (1e-2, 70.0)], tips=["x", "", "z"], dots=True)]


def chart() -> Chart:
    svg = log_chart(LINES, [Mark(x=1e-3, y=80.0, tip="best"), Mark(x=2e-3, y=77.0, tip="rule", cross=True)],
                    label=NAME, x_label="rate", x_text=lambda x: f"{x:g}")  # fmt: skip
    return Chart(title=f"Rates {NAME}", caption="", svg=svg, legend=((LINES[0].css, NAME),))


def test_points_lie_by_the_logarithm_of_their_rate() -> None:
    svg = log_chart(LINES, label="", x_label="", x_text=str)
    path = re.search(r'd="M([^"]+)"', str(svg))
    assert path is not None
    (a, low), (b, high), (c, _) = ([float(n) for n in part.split()] for part in path[1].split("L"))
    assert abs((b - a) - (c - b)) < 0.2 and high < low  # a decade each; better is higher
    assert "0.001" in str(svg) and str(svg).count('class="hit"') == 2


def test_one_point_alone_is_drawn() -> None:
    xml.dom.minidom.parseString(str(log_chart([Line(label="", points=[(1.0, 0.0)])], label="", x_label="", x_text=str)))


def test_bars_are_as_long_as_their_values() -> None:
    svg = str(bars([("a", 10.0, "ten"), ("b", 5.0, "five"), ("c", 0.0, "none")], label=""))
    long, short, least = (float(width) for width in re.findall(r'width="([\d.]+)"', svg))
    assert long == 2 * short and least == 1


def test_a_page_holds_tables_and_charts_with_names_escaped(tmp_path: Path) -> None:
    sections = [Section(title=NAME, header=["row", "x|y"], rows=[[NAME, "1"]], notes=[NAME], charts=[chart()])]
    html = grid_html("grid", sections)
    assert "a &lt;b&gt; &amp; c" in html and "<b> &" not in html and "http" not in html.split("</style>")[1]
    pictures = write_pictures(tmp_path, sections)
    text = grid_markdown("grid", sections, pictures)
    assert "| row | x\\|y |" in text and f"]({pictures[f'Rates {NAME}']})" in text
    drawing = xml.dom.minidom.parse(str(tmp_path / "rates-a-b-c.svg"))
    assert NAME in "".join(node.data for text in drawing.getElementsByTagName("text") for node in text.childNodes)


def test_a_picture_needs_no_variables() -> None:
    assert "var(" not in standalone(chart())
    plain = Chart(title="", caption="", svg=bars([("a", 1.0, "1")], label=""))
    assert "var(" not in standalone(plain)
