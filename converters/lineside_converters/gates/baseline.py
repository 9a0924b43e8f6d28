"""The baseline gate: is a model better than one that always gives the same answer?

The other gates compare a converted model with its source. A source that has learnt nothing passes them.

| task | figure | least |
| --- | --- | --- |
| classification | mean recall of the classes shown, of which a constant answer has 1 / classes | 1/5 of the way to 1 |
| detection | mAP@0.5 | 0.1 |
| segmentation | mean IoU | 0.1 |

A caller's ``min_metric`` takes the place of these limits. Where it lets through what they refuse, the gate says
``overridden``; where no annotated frames of the line were there to measure on, ``unproven``. Both stand in the report
and the card, and ``lineside push`` refuses such a bundle unless it is told not to.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from lineside_converters.gates.disagreement import NOTHING, OTHERS
from lineside_converters.reports.report import REPORT_NAME, GateResult, OptimizationReport, read_report
from lineside_converters.reports.report_parts import Confusion
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import AccuracyGateError, BundleFormatError, ConfigError

NAME: Literal["baseline"] = "baseline"
LEAST_SHARE = 0.2
LEAST_METRIC = 0.1

_ACTION = (
    "Train longer or on more data. min_metric = 0 (--min-metric 0) makes the bundle all the same; its report says so."
)
_UNPROVEN = "nobody has shown that the model is better than a constant answer: no annotated frames of the line"


@dataclasses.dataclass(frozen=True, slots=True)
class _Measured:
    value: float
    limit: float
    detail: str

    @property
    def passed(self) -> bool:
        return self.value >= self.limit


def baseline_gate(report: OptimizationReport, *, min_metric: float | None = None) -> GateResult:
    """Compares a model with one that always gives the same answer.

    Args:
        min_metric: Least value of the report's metric, 0 to 1, in place of the limits above.

    Raises:
        AccuracyGateError: The model is below the limit.
        ConfigError: ``min_metric`` is given, and nothing was measured.
    """
    measured, metric = _measured(report), report.metric
    if min_metric is not None:
        if metric is None:
            if min_metric > 0:
                raise ConfigError("min_metric", expected="annotated data to measure it on", actual=min_metric)
        elif metric.after < min_metric:
            raise AccuracyGateError(
                f"{metric.name} is lower than asked for",
                expected=f"{metric.name} of at least {min_metric:g}",
                actual=f"{metric.after:.4f} (the source model: {metric.before:.4f})",
                action="Train longer or on more data.",
            )
        if metric is not None and (measured is None or measured.passed):
            detail = f"{metric.name}, as asked for"
            return GateResult(name=NAME, status="passed", value=metric.after, limit=min_metric, detail=detail)
    if measured is None:
        return GateResult(name=NAME, status="unproven", value=None, limit=LEAST_METRIC, detail=_UNPROVEN)
    if not measured.passed and min_metric is None:
        raise AccuracyGateError(
            "the model is hardly better than one that always gives the same answer",
            expected=f"at least {measured.limit:.3f}",
            actual=measured.detail,
            action=_ACTION,
        )
    status: Literal["passed", "overridden"] = "passed" if measured.passed else "overridden"
    return GateResult(name=NAME, status=status, value=measured.value, limit=measured.limit, detail=measured.detail)


def shortfall_of(bundle: Bundle) -> str:
    """Returns why a bundle has not passed the baseline gate; empty if it has.

    Bundles of releases before this gate are judged by what their report says. It is empty for a bundle that the
    optimizer did not make, whose report says nothing of this: one that was learned from good parts, or another maker's.
    """
    if REPORT_NAME not in bundle.manifest.files:
        return ""
    try:
        report = read_report(bundle.path)
    except BundleFormatError:  # another maker's report, which says nothing of this
        return ""
    for gate in report.gates:
        if gate.name == NAME:
            return "" if gate.status == "passed" else gate.detail
    measured = _measured(report)
    return "" if measured is None or measured.passed else measured.detail


def _measured(report: OptimizationReport) -> _Measured | None:
    """Returns the figure to compare; ``None`` if accuracy was measured on drawn frames, by the caller or not at all."""
    metric = report.metric
    if metric is None or not report.accuracy_on or report.accuracy_on.endswith("the line simulator"):
        return None
    if metric.name == "top-1":
        return _of_classifier(report, metric.after)
    return _Measured(metric.after, LEAST_METRIC, f"{metric.name} {metric.after:.4f} on {report.accuracy_on}")


def _of_classifier(report: OptimizationReport, top1: float) -> _Measured | None:
    matrix = report.confusion
    if matrix is None:
        return None
    if OTHERS in matrix.labels:  # classes beyond the matrix's size are counted together
        return _Measured(top1, LEAST_SHARE, f"top-1 {top1:.4f} on {report.accuracy_on}")
    recalls, answers = _recalls(matrix), _answers(matrix)
    if len(recalls) < 2:
        return None
    chance = 1 / len(recalls)
    value = sum(recalls) / len(recalls)
    most, share = max(answers.items(), key=lambda item: item[1])
    detail = (
        f"mean recall of {len(recalls)} classes {value:.3f} on {report.accuracy_on}; a constant answer has "
        f"{chance:.3f}; {share:.0%} of the answers are {most}"
    )
    return _Measured(value, chance + LEAST_SHARE * (1 - chance), detail)


def _recalls(matrix: Confusion) -> list[float]:
    """Returns the recall of each class that the frames show."""
    rows = zip(matrix.labels, matrix.after, strict=True)
    return [row[at] / sum(row) for at, (label, row) in enumerate(rows) if label != NOTHING and any(row)]


def _answers(matrix: Confusion) -> dict[str, float]:
    """Returns each class's share of the model's answers."""
    columns = [sum(row[at] for row in matrix.after) for at in range(len(matrix.labels))]
    whole = sum(columns) or 1
    return {label: count / whole for label, count in zip(matrix.labels, columns, strict=True)}
