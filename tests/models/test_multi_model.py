"""Several models on one frame: boxes of one for the next, one verdict, coordinates of the whole frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineside_models.frame import Frame, UInt8Array
from lineside_models.inspector import Inspector
from lineside_models.multi_model import MultiModelInspector, NamedInspector
from lineside_models.verdict.rules import Rules, read_rules
from lineside_runtime.bundle import Bundle, ModelEntry
from lineside_runtime.errors import PartNotFoundError
from lineside_runtime.session import Session
from tests.worlds.bundles import make_bundle, make_shade_classifier
from tests.worlds.drawn_codes import modules

WHITE, GREY = 255, 170


def spots(*spots_: tuple[int, int, int]) -> UInt8Array:
    """A black frame with squares of 16 pixels: ``(x, y, value)`` each."""
    image = np.zeros((96, 96, 3), np.uint8)
    for x, y, value in spots_:
        image[y : y + 16, x : x + 16] = value
    return image


class Line:
    """Models of a test, each with its own session."""

    def __init__(self, detector: Bundle, classifier: Bundle, open_: ExitStack) -> None:
        self._bundles = {"detector": detector, "classifier": classifier}
        self._open = open_

    def named(self, name: str, bundle: str, rules: dict[str, Any] | None = None, **entry: Any) -> NamedInspector:
        session = self._open.enter_context(Session(self._bundles[bundle]))
        inspector = Inspector(session, rules=read_rules(rules) if rules else Rules())
        return NamedInspector(ModelEntry(name=name, path=f"models/{name}", **entry), inspector)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder: Path = tmp_path_factory.mktemp("bundles")
    with ExitStack() as open_:
        yield Line(make_bundle(folder / "d"), make_shade_classifier(folder / "c"), open_)


def boxes_with(line: Line, **entry: Any) -> MultiModelInspector:
    entry = {"boxes_min": 0, "boxes_max": 64, **entry}
    return MultiModelInspector(
        "line@1", [line.named("spots", "detector"), line.named("shade", "classifier", of="spots", **entry)]
    )


def test_a_classifier_judges_each_box_of_a_detector_and_the_boxes_alone_are_no_defects(line: Line) -> None:
    both = boxes_with(line)
    good = both.inspect(Frame(image=spots((16, 16, WHITE)), part_id="p"))
    assert (good.verdict, good.detections, good.bundle, good.part_id) == ("good", (), "line@1", "p")
    bad = both.inspect(Frame(image=spots((16, 16, WHITE), (64, 48, GREY))))
    assert bad.verdict == "bad"
    assert {found.type for found in bad.detections} == {"grey"}
    for found in bad.detections:
        x1, y1, x2, y2 = found.box
        assert 56 <= x1 < x2 <= 88 and 40 <= y1 < y2 <= 72, "in pixels of the whole frame"
    assert (bad.used_device, bad.requested_device) == ("ort/cpu:0+ort/cpu:0", "cpu:0+cpu:0")
    assert (bad.width, bad.height) == (96, 96)
    assert set(both.service_ms) == {"spots", "shade"}


def test_a_frame_without_the_part_or_with_too_many_is_no_verdict(line: Line) -> None:
    empty, one = Frame(image=spots()), Frame(image=spots((16, 16, WHITE)))
    assert boxes_with(line, boxes_min=0).inspect(empty).used_device == "ort/cpu:0"
    with pytest.raises(PartNotFoundError, match=r"boxes of spots for shade; expected 1 to 64; got 0"):
        boxes_with(line, boxes_min=1).inspect(empty)
    with pytest.raises(PartNotFoundError, match="expected 0 to 1; got"):
        boxes_with(line, boxes_max=1).inspect(one)
    with pytest.raises(PartNotFoundError, match=r"\(other\)"):
        boxes_with(line, types=("other",), boxes_min=1).inspect(one)


def test_boxes_that_a_detector_is_unsure_of_are_inspected_too(line: Line) -> None:
    doubts = {"thresholds": {"*": 1.0}, "unsure_from": {"*": 0.5}}
    both = MultiModelInspector(
        "line@1",
        [
            line.named("spots", "detector", doubts),
            line.named("shade", "classifier", of="spots", boxes_min=0, boxes_max=64),
        ],
    )
    assert both.inspect(Frame(image=spots((16, 16, GREY)))).verdict == "bad"


def test_models_of_the_whole_frame_give_one_verdict_the_worst(line: Line) -> None:
    sure: dict[str, Any] = {"confidence_threshold": 0.5}
    unsure: dict[str, Any] = {"thresholds": {"*": 1.0}, "unsure_from": {"*": 0.5}}
    frame = Frame(image=spots((16, 16, GREY)))
    for rules, verdict in (((sure, unsure), "bad"), ((unsure, unsure), "unsure"), ((unsure, sure), "bad")):
        models = [line.named(f"m{number}", "detector", each) for number, each in enumerate(rules)]
        assert MultiModelInspector("line@1", models).inspect(frame).verdict == verdict


def test_a_value_out_of_tolerance_is_bad_whichever_model_measured_it(line: Line) -> None:
    corners = [[66, 18], [78, 18], [78, 30], [66, 30]]
    lamp = {"type": "presence", "name": "lamp", "polygon": corners, "inside": "bright", "level": 128, "min": 0.9}
    models = [
        line.named("spots", "detector", {"measure": [lamp]}),
        line.named("shade", "classifier", of="spots", boxes_min=0, boxes_max=64),
    ]
    both = MultiModelInspector("line@1", models)
    lit, unlit = spots((64, 16, WHITE)), spots((0, 16, WHITE))
    for image, verdict, is_in in ((lit, "good", True), (unlit, "bad", False)):
        found = both.inspect(Frame(image=image))
        assert (found.verdict, found.detections, found.measurements[0].in_tolerance) == (verdict, (), is_in)


def test_a_mark_that_one_model_reads_names_the_part_and_can_reject_it(line: Line) -> None:
    image = np.full((96, 96, 3), 90, np.uint8)
    dark = np.kron(modules("data-matrix", "C1"), np.ones((4, 4), bool))
    image[20 : 20 + dark.shape[0], 20 : 20 + dark.shape[1]][dark] = 10
    for equals, verdict, part_id in (("C1", "good", "C1"), ("C2", "bad", "given")):
        rule = {"type": "code", "name": "label", "part_id": True, "equals": equals}
        finder = line.named("spots", "detector", {"read": [rule]})
        shade = line.named("shade", "classifier", of="spots", boxes_min=0, boxes_max=64)
        found = MultiModelInspector("line@1", [finder, shade]).inspect(Frame(image=image, part_id="given"))
        assert (found.verdict, found.part_id, found.readings[0].text) == (verdict, part_id, "C1")
