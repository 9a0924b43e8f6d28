"""The report kit: pages load nothing, texts are escaped, and values lie where the axes say."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from lineside_runtime.reports import markup
from lineside_runtime.reports.svg import Plot, bars, round_marks, svg, widened

HOSTILE = "<b>\"'&</b>"


def test_a_page_is_whole_escapes_its_texts_and_loads_nothing() -> None:
    body = [
        markup.header(HOSTILE, HOSTILE),
        markup.tiles([(HOSTILE, HOSTILE)]),
        markup.cautions([HOSTILE]),
        markup.section(HOSTILE, markup.table([HOSTILE], [[HOSTILE]], words=[0], dots=True), HOSTILE),
        markup.facts({HOSTILE: HOSTILE, "empty": ""}),
        markup.legend([HOSTILE]),
        bars([(HOSTILE, 1.0, HOSTILE)], HOSTILE),
    ]
    page = markup.document(HOSTILE, "\n".join(body), refresh_s=20)
    assert page.startswith("<!doctype html>") and page.endswith("</html>\n")
    assert 'http-equiv="refresh" content="20"' in page
    assert HOSTILE not in page and "empty" not in page
    assert not re.search(r"<script|https?://|src=", page)


def test_nothing_to_caution_is_no_card() -> None:
    assert markup.cautions([]) == ""


def test_values_lie_between_the_edges_of_a_plot() -> None:
    plot = Plot((10, 20), (0, 4), left=100, right=200, top=0, bottom=80)
    assert (plot.x(10), plot.x(15), plot.x(20)) == (100, 150, 200)
    assert (plot.y(0), plot.y(1), plot.y(4)) == (80, 60, 0)


def test_an_axis_can_be_logarithmic_and_a_range_can_be_empty() -> None:
    assert Plot((1, 100), left=0, right=100, warp=math.log).x(10) == pytest.approx(50)
    flat = Plot((3, 3), (5, 5))
    assert math.isfinite(flat.x(3)) and math.isfinite(flat.y(5))


@pytest.mark.parametrize(
    ("low", "high", "most", "marks"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3, 12, 8, [-2, 0, 2, 4, 6, 8, 10, 12]),
        (0.011, 0.019, 4, [0.012, 0.014, 0.016, 0.018]),
    ],
)
def test_marks_are_round_and_inside(low: float, high: float, most: int, marks: list[float]) -> None:
    assert round_marks(low, high, most) == marks


def test_a_range_of_one_value_is_widened() -> None:
    low, high = widened(2.0, 2.0)
    assert low < 2.0 < high
    assert widened(0.0, 0.0)[0] < 0.0


def test_a_chart_is_xml_with_a_description_and_titles() -> None:
    plot = Plot((0, 1))
    parts = [
        plot.columns([0, 1]),
        plot.rows([0, 1]),
        plot.curve([(0, 0), (1, 1)], "l0", HOSTILE),
        plot.upright(0.5, "limit"),
    ]
    root = ElementTree.fromstring(svg(100, HOSTILE, parts))
    assert root.attrib["aria-label"] == HOSTILE
    assert [each.text for each in root.iter("title")] == [HOSTILE]
    (curve,) = root.iter("polyline")
    assert curve.attrib["points"] == f"{plot.left:.1f},{plot.bottom:.1f} {plot.right:.1f},{plot.top:.1f}"


def test_bars_of_nothing_can_be_drawn() -> None:
    ElementTree.fromstring(bars([("none", 0.0, "0")], "counts"))
