"""``report.html``: what stands on it, that it needs nothing else, and that a shipped one shows nobody's frames."""

from __future__ import annotations

import base64
import html.parser
import re
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from lineside_converters.data.calibration_data import AnnotatedFrame
from lineside_converters.gates.disagreement import DisagreeingFrame
from lineside_converters.reports import charts
from lineside_converters.reports.frames import SHOWN_MAX, SIDE_MAX, draw_frames
from lineside_converters.reports.page import beside, page
from lineside_converters.reports.report import (
    CalibrationFacts,
    GateResult,
    ModelFigures,
    OptimizationReport,
    SourceFacts,
    this_machine,
)
from lineside_converters.reports.report_parts import (
    Confusion,
    Disagreement,
    Hypervolume,
    LayerChoice,
    MetricChange,
    SearchPoint,
    SensitivityCurve,
    VariantFigures,
)
from lineside_models.frame import Frame
from lineside_models.inspection import Detection
from lineside_runtime.bundle import time_now
from tests.peers.browser import load_once

BARE = OptimizationReport(
    model="cells@1.0.1",
    made_at=time_now(),
    level=1,
    recipe="static INT8",
    source=SourceFacts(name="cells.onnx", sha256="a" * 64, size_bytes=4_000_000),
    machine=this_machine(1),
    float=ModelFigures(latency_ms=10.0, latency_p95_ms=12.0, size_bytes=4_000_000),
)
METRIC = MetricChange(name="top-1", before=0.81, after=0.806, low=-0.002, high=0.009, confidence=0.95, frames=1300)
FULL = msgspec.structs.replace(
    BARE,
    float=msgspec.structs.replace(BARE.float, throughput_fps=90.0, memory_bytes=150_000_000),
    int8=ModelFigures(
        latency_ms=4.0, latency_p95_ms=5.0, size_bytes=1_000_000, throughput_fps=230.0, memory_bytes=75_000_000
    ),
    calibration=CalibrationFacts(frames=64, sha256="b" * 64, source="64 frames of steel", method="minmax"),
    gates=(
        GateResult(name="accuracy", status="passed", value=0.004, limit=0.005, detail="top-1 0.8100 → 0.8060"),
        GateResult(name="speed", status="unproven", value=None, limit=1.0, detail="no gpu was here to measure on"),
    ),
    accuracy_on="1300 photos",
    notes=("look <here> & there",),
    metric=METRIC,
    layers=tuple(
        LayerChoice(name=f"/stem/{n}", kind="Conv", precision="fp32" if n == 0 else "int8", why="harmed", macs=n * 1000)
        for n in range(5)
    ),
    curves=(
        SensitivityCurve(layer="/stem/1", ratios=(0.0, 0.25, 0.5), metrics=(0.8, 0.7, 0.4), chosen=0.25),
        SensitivityCurve(layer="/stem/2", ratios=(0.0, 0.25, 0.5), metrics=(0.8, 0.8, 0.79), chosen=0.5),
    ),
    candidates=(
        SearchPoint(latency_ms=4.0, metric=0.806, series="search", what="width 0.7", front=True, shipped=True),
        SearchPoint(latency_ms=10.0, metric=0.81, series="source", what="the source", front=True),
        SearchPoint(latency_ms=11.0, metric=0.6, series="random", what="width 1.1"),
    ),
    hypervolumes=(Hypervolume(series="search", value=3.25),),
    confusion=Confusion(labels=("dent", "hole"), before=((5, 1), (0, 6)), after=((4, 2), (0, 6))),
    disagreements=(Disagreement(frame="part 7", truth="dent", before="dent 0.90", after="hole 0.51"),),
    variants=(
        VariantFigures(
            name="onnx-int8", engine="ort", precision="int8", latency_ms=4.0, size_bytes=1, kept=True, why="the fastest"
        ),
    ),
)
SECTIONS = {
    "metric": "lost, with its 95 % interval",
    "layers": "Precision of each layer",
    "curves": "Sensitivity to pruning",
    "candidates": "Accuracy against latency",
    "confusion": "What was taken for what",
    "disagreements": "Frames on which the two disagree",
    "variants": "<h2>Variants</h2>",
}


class _Links(html.parser.HTMLParser):
    """Collects what a page would fetch, and checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "rect", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line", "circle", "polyline"):
            assert self.open.pop() == tag


def _read(text: str) -> _Links:
    links = _Links()
    links.feed(text)
    assert links.open == []
    return links


def _differing(count: int) -> list[DisagreeingFrame]:
    found = Detection(type="dent", score=0.9, box=(10, 10, 60, 60))
    return [DisagreeingFrame(FULL.disagreements[0], number, (found,), (), 0.9) for number in range(count)]


def _frames(count: int, *, side: int = 300) -> list[AnnotatedFrame]:
    image = np.random.default_rng(0).integers(0, 255, (side, side), np.uint8)
    frame = AnnotatedFrame(Frame(image=image), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    return [frame] * count


def test_a_full_page_needs_no_other_file_and_runs_nothing() -> None:
    text = page(FULL, draw_frames(_differing(2), _frames(2), whole=False))
    links = _read(text)
    assert len(links.fetched) == 4
    assert all(link.startswith("data:image/jpeg;base64,") for link in links.fetched)
    assert "<script" not in text
    assert not re.search(r"url\(|@import|https?://", text)


def test_a_page_without_drawn_frames_holds_no_picture_and_what_was_not_measured_has_no_section() -> None:
    text = page(FULL)
    assert _read(text).fetched == []
    assert "part 7" in text
    assert "are not shipped" in text
    for part, heading in SECTIONS.items():
        assert heading in text
        assert heading not in page(msgspec.structs.replace(FULL, **{part: getattr(BARE, part)}))
    bare = page(BARE)  # of a float bundle, and of a report of the first schema
    _read(bare)
    assert "Accuracy was not measured" in bare and "change</th>" not in bare


def test_the_figures_are_those_of_the_report() -> None:
    text = page(FULL)
    for figure in ("2.50 ×", "0.25 ×", "0.50 ×", "−0.40 points", "230.0 frames/s", "at worst −0.90 at 95%"):
        assert figure in text
    assert "no gpu was here to measure on" in text and "1 of 2" in text
    text = page(msgspec.structs.replace(FULL, time_ratio=0.436))  # of paired calls
    assert "<b>2.29 ×</b>" in text and "0.44 ×" in text and "2.50 ×" not in text and "0.40 ×" not in text
    better = MetricChange(name="top-1", before=0.5, after=0.6585, low=-0.21, high=-0.1037, confidence=0.95, frames=90)
    text = page(msgspec.structs.replace(FULL, metric=better))
    assert "+15.85" in text and "points of top-1, at worst +10.37 at 95%" in text


@pytest.mark.peer
def test_a_wide_confusion_matrix_is_whole_at_a_thousand_pixels(tmp_path: Path) -> None:
    names = tuple(f"oxide scale of temperature system {number}" for number in range(8))
    counts = tuple(tuple(11 if row == column else 100 for column in range(8)) for row in range(8))
    text = page(msgspec.structs.replace(FULL, confusion=Confusion(labels=names, before=counts, after=counts)))
    measure = "[...document.querySelectorAll('.side .scroll')].map(e => e.scrollWidth - e.clientWidth)"
    file = tmp_path / "report.html"
    file.write_text(text.replace("</main>", f"</main><p id=cut></p><script>cut.textContent = {measure}</script>"))
    shown = load_once(file, "--window-size=1000,1400", "--dump-dom", profile=tmp_path / "profile")
    assert '<p id="cut">0,0</p>' in shown


def test_what_a_model_is_called_cannot_become_markup() -> None:
    evil = "<img src=x onerror=alert(1)>"
    report = msgspec.structs.replace(
        FULL,
        model=evil,
        layers=(LayerChoice(name=evil, kind=evil, precision="int8", why=evil),),
        curves=(SensitivityCurve(layer=evil, ratios=(0.0, 0.5), metrics=(0.8, 0.7), chosen=0.0),),
        candidates=(SearchPoint(latency_ms=1.0, metric=0.5, series=evil, what=evil, front=True),),
        metric=msgspec.structs.replace(METRIC, name=evil),
        confusion=Confusion(labels=(evil,), before=((1,),), after=((1,),)),
    )
    assert _read(page(report)).fetched == []


def _decoded(jpeg_base64: str) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(base64.b64decode(jpeg_base64), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_few_and_small_pictures_are_drawn_whose_sides_differ_and_a_classifiers_as_it_is() -> None:
    shown = draw_frames(_differing(SHOWN_MAX + 5), _frames(SHOWN_MAX + 5, side=900), whole=False)
    assert len(shown) == SHOWN_MAX
    before, after = (_decoded(text) for text in (shown[0].before_jpeg, shown[0].after_jpeg))
    assert max(before.shape[:2]) == SIDE_MAX
    assert np.abs(before.astype(int) - after).max() > 100
    (whole,) = draw_frames(_differing(1), _frames(1, side=100), whole=True)
    assert _decoded(whole.before_jpeg).shape[:2] == (100, 100)
    assert whole.before_jpeg == whole.after_jpeg


def test_drawings_of_flat_and_single_values_have_finite_coordinates() -> None:
    flat = SensitivityCurve(layer="l", ratios=(0.0,), metrics=(0.5,), chosen=0.0)
    one = SearchPoint(latency_ms=1.0, metric=0.0, series="search", what="w", front=True)
    still = msgspec.structs.replace(METRIC, before=0.5, after=0.5, low=0.0, high=0.0)
    drawn = (
        charts.curves([flat])
        + charts.front([one], "mAP")
        + charts.drop(still, None)
        + charts.layers([LayerChoice(name="l", kind="Conv", precision="int8", why="w")])
    )
    assert not re.search(r"nan|inf\b", drawn)
    assert not re.search(r'(width|height|r)="-', drawn)


def test_the_page_with_pictures_stands_beside_the_bundle() -> None:
    assert beside(Path("out/steel-1.2.0-int8")) == Path("out/steel-1.2.0-int8.report.html")
