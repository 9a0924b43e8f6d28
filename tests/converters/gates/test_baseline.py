from __future__ import annotations

import msgspec
import pytest

from lineside_converters.gates.baseline import baseline_gate
from lineside_converters.reports.report import OptimizationReport
from lineside_converters.reports.report_parts import Confusion, MetricChange
from lineside_runtime.errors import AccuracyGateError, ConfigError
from tests.converters.test_reports import BARE


def judged(name: str, value: float, on: str = "100 frames of parts, fold val") -> OptimizationReport:
    metric = MetricChange(name=name, before=value, after=value, low=0.0, high=0.0, confidence=0.95, frames=100)
    return msgspec.structs.replace(BARE, metric=metric, accuracy_on=on)


def classifier(labels: str, *rows: tuple[int, ...]) -> OptimizationReport:
    right = sum(row[at] for at, row in enumerate(rows)) / sum(sum(row) for row in rows)
    table = Confusion(labels=tuple(labels), before=rows, after=rows)
    return msgspec.structs.replace(judged("top-1", right), confusion=table)


def test_a_model_that_nearly_always_gives_one_answer_is_refused_however_often_that_is_right() -> None:
    with pytest.raises(AccuracyGateError, match=r"mean recall of 2 classes 0\.500 .*; 100% of the answers are a"):
        baseline_gate(classifier("ab", (95, 0), (5, 0)))
    seven = [[0] * 7 for _ in range(7)]
    for row in seven:
        row[0] = 10
    seven[3][0], seven[3][3] = 7, 3
    with pytest.raises(AccuracyGateError, match=r"expected at least 0\.314"):
        baseline_gate(classifier("abcdefg", *(tuple(row) for row in seven)))


def test_a_model_that_tells_a_rare_class_apart_passes() -> None:
    gate = baseline_gate(classifier("ab", (92, 3), (2, 3)))
    assert (gate.name, gate.status) == ("baseline", "passed")
    assert gate.value == pytest.approx((92 / 95 + 3 / 5) / 2)
    assert gate.limit == pytest.approx(0.6)


def test_detectors_and_segmenters_have_a_least_metric() -> None:
    assert baseline_gate(judged("mAP@0.5", 0.2)).status == "passed"
    for name in ("mAP@0.5", "mean IoU"):
        with pytest.raises(AccuracyGateError, match=name):
            baseline_gate(judged(name, 0.016))


def test_what_nobody_has_measured_on_the_lines_frames_is_unproven() -> None:
    assert baseline_gate(BARE).status == "unproven"
    assert baseline_gate(judged("mAP@0.5", 0.0, "40 frames of the line simulator")).status == "unproven"
    assert baseline_gate(classifier("a", (10,))).status == "unproven"


def test_the_callers_limit_is_kept_and_what_it_lets_through_is_written_down() -> None:
    with pytest.raises(AccuracyGateError, match=r"mAP@0\.5 of at least 0\.8"):
        baseline_gate(judged("mAP@0.5", 0.7), min_metric=0.8)
    assert baseline_gate(judged("mAP@0.5", 0.7), min_metric=0.6).limit == 0.6
    assert baseline_gate(judged("mAP@0.5", 0.01), min_metric=0.0).status == "overridden"
    assert baseline_gate(BARE, min_metric=0.0).status == "unproven"
    with pytest.raises(ConfigError, match="min_metric"):
        baseline_gate(BARE, min_metric=0.5)
