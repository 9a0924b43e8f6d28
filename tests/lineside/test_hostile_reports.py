"""Labels, part ids and every other text of a report are text: none of them runs as a script or steers a terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import cv2
import msgspec
import numpy as np
import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Browser

from lineside.commands.agent.results import print_report
from lineside.demo import charts
from lineside.demo.count import DemoEvent, DemoRow
from lineside.demo.report import DemoOutcome, ReportData, write_report
from lineside_agent.storage.record_queries import HourCount, ShiftReport
from lineside_converters.evaluation.classifier import ClassifierEvaluation
from lineside_converters.evaluation.detector import DetectorEvaluation
from lineside_converters.evaluation.page import FramePicture
from lineside_converters.evaluation.page import page as evaluation_page
from lineside_converters.evaluation.segmenter import SegmenterEvaluation
from lineside_converters.reports.frames import ShownFrame
from lineside_converters.reports.model_card import write_card
from lineside_converters.reports.page import page as optimizer_page
from lineside_converters.reports.report import OptimizationReport
from lineside_converters.thresholds.page import page as decision_page
from lineside_converters.thresholds.report import ThresholdReport
from lineside_converters.training.distributed.cost import CostReport
from lineside_converters.training.distributed.report import page as cost_page
from lineside_converters.training.monitoring.curves import page as curves_page
from lineside_runtime.benchmark import BenchmarkReport
from lineside_runtime.benchmark import page as benchmark_page
from lineside_runtime.bundle import Manifest
from tests.peers.browser import browser as browser

pytestmark = pytest.mark.peer

RUN = "document.documentElement.id='ran'+(40+2)"
RAN = 'id="ran42"'
"""In a document in which one of the scripts has run: the sum is of the script's making."""

HOSTILE = (
    f"<script>{RUN}</script><img src=x onerror={RUN}><svg onload={RUN}></svg>"
    f'"\' onmouseover={RUN} autofocus onfocus={RUN} x="</title></style></text></svg><script>{RUN}</script>'
    f"<a href=\"javascript:{RUN}\">a</a>{{{{ 7*7 }}}}<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>"
)


CHECKED = {"overlap": 1, "colour": "none"}
"""Fields of which a struct checks that they fit to another field."""


def sample(kind: Any) -> Any:
    """Returns a value of a type whose texts are all hostile."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in (str, Any):
        return HOSTILE
    if kind is Path:
        return Path("nowhere")
    if kind in (bool, int, float):
        return {bool: True, int: 3, float: 0.5}[kind]
    if origin is typing.Annotated:
        return sample(arguments[0])
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return sample(next(one for one in arguments if one not in (type(None), msgspec.UnsetType)))
    if origin in (list, Sequence) or (origin is tuple and arguments[-1] is Ellipsis):
        return tuple(sample(arguments[0]) for _ in range(2))
    if origin is tuple:
        return tuple(sample(one) for one in arguments)
    if origin in (dict, Mapping):
        return {sample(arguments[0]): sample(arguments[1])}
    hints = typing.get_type_hints(kind, include_extras=True)
    names = [one.name for one in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else kind.__struct_fields__
    return kind(**{name: CHECKED[name] if name in CHECKED else sample(hints[name]) for name in names})


def training_curves() -> str:
    curve = [{"step": 10.0 * n, "elapsed_s": 1.0, HOSTILE: 0.1 * n} for n in (1, 2)]
    losses = [{"step": 10.0 * n, "loss": 1.0 / n, "learning_rate": 0.1} for n in (1, 2)]
    return curves_page(HOSTILE, curve, losses, figure=HOSTILE, steps=20)


def demo_report(folder: Path) -> str:
    (folder / "frames").mkdir()
    cv2.imwrite(str(folder / "frames" / "1.png"), np.zeros((32, 32, 3), np.uint8))
    row = msgspec.structs.replace(
        sample(DemoRow), sequence=1, verdict="reject", detections=[(HOSTILE, 0.5, 1, 1, 9, 9)]
    )
    events = [msgspec.structs.replace(sample(DemoEvent), kind=kind) for kind in ("active", HOSTILE)]
    data = ReportData(
        out=folder,
        outcome=msgspec.structs.replace(
            sample(DemoOutcome), rolled_back=[dict.fromkeys(("bundle", "code", "reason"), HOSTILE)], float={}, int8={}
        ),
        results=[row],
        events=events,
        marks=[sample(charts.ChartMark)],
        pictures={1: folder / "frames" / "1.png"},
    )
    return write_report(data).read_text()


def evaluation(kind: Any, task: str) -> Callable[[Path], str]:
    return lambda _: evaluation_page(msgspec.structs.replace(sample(kind), task=task), [sample(FramePicture)])


def model_card() -> str:
    """Returns the card of a bundle as HTML, by a renderer that lets raw HTML pass."""
    manifest = sample(Manifest)
    image = msgspec.structs.replace(manifest.preprocess, text=msgspec.UNSET)
    card = write_card(msgspec.structs.replace(manifest, preprocess=image), sample(OptimizationReport))
    return MarkdownIt("commonmark").enable("table").render(card)


PAGES: dict[str, Callable[[Path], str]] = {
    "optimizer": lambda _: optimizer_page(sample(OptimizationReport), [sample(ShownFrame)]),
    "detector": evaluation(DetectorEvaluation, "detection"),
    "classifier": evaluation(ClassifierEvaluation, "classification"),
    "segmenter": evaluation(SegmenterEvaluation, "segmentation"),
    "decision": lambda _: decision_page(sample(ThresholdReport)),
    "curves": lambda _: training_curves(),
    "cost of training": lambda _: cost_page(HOSTILE, sample(CostReport)),
    "benchmark": lambda _: benchmark_page(sample(BenchmarkReport)),
    "demo": demo_report,
    "model card": lambda _: f"<!doctype html><html><body>{model_card()}</body></html>",
}


def loaded(browser: Browser, path: Path) -> str:
    """Returns a page's document as HTML after its scripts have run, and everything on it had the focus once."""
    with contextlib.closing(browser.new_page()) as page:
        page.goto(path.as_uri(), wait_until="networkidle")
        page.evaluate("for (const one of document.querySelectorAll('*')) one.focus?.()")
        return page.content()


@pytest.mark.parametrize("name", PAGES)
def test_no_text_of_a_report_runs_as_a_script(browser: Browser, name: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    text = PAGES[name](tmp_path)
    assert any(f"ran{quote}+(40+2)" in text for quote in ("&#39;", "&#x27;", "'")), (
        "the hostile text must stand on the page"
    )
    path.write_text(text)
    document = loaded(browser, path)
    assert "</html>" in document
    assert RAN not in document
    assert "<iframe" not in document


@pytest.mark.parametrize("text", [HOSTILE, f"<svg onload={RUN}></svg>", f"<img src=x onerror={RUN}>"])
def test_the_browser_would_tell(browser: Browser, text: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(f"<!doctype html><html><body><p>{text}</p></body></html>")
    assert RAN in loaded(browser, tmp_path / "page.html")


def test_no_text_of_a_shift_report_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\u202edent\r"
    counts = {hostile: 3}
    hour = HourCount(start_ns=0, verdicts=dict.fromkeys(("pass", "reject"), 1))
    print_report(
        ShiftReport(device=hostile, parts=3, codes=counts, defects=counts, latency_ms={hostile: 1.0}, hours=[hour])
    )
    printed = capsys.readouterr().out
    assert "owned" in printed and "dent" in printed
    assert all(sign.isprintable() or sign == "\n" for sign in printed)
