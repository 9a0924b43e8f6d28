"""Figures in an evaluation's JSON. Keys are stable: new ones may come, none changes its meaning or goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lineside_converters.reports.report_parts import ReportStruct


class Interval(ReportStruct, frozen=True, kw_only=True):
    """Ends of an interval.

    Attributes:
        confidence: Confidence that it holds the true value.
        method: ``bootstrap`` over frames, or over parts where several frames show one and that is wider; or ``wilson``.
    """

    low: float
    high: float
    confidence: float
    method: str


class ConfusionMatrix(ReportStruct, frozen=True, kw_only=True):
    """Confusion matrix: rows are the truth, columns the answer; ``nothing`` is a miss or a false find.

    Attributes:
        labels: Labels of rows and columns; types that neither are there nor are found have none.
        counts: By row.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class PrecisionRecallCurve(ReportStruct, frozen=True, kw_only=True):
    """Precision against recall of one type, as COCO reads it: the best precision at this recall or a higher one.

    Attributes:
        recall: 0 to 1 in steps of 0.01.
        precision: At each; 0 where the recall isn't reached.
        recall_at_threshold: Where the type's threshold lies on it.
        precision_at_threshold: There; ``None`` where nothing reaches it.
    """

    recall: tuple[float, ...]
    precision: tuple[float, ...]
    recall_at_threshold: float
    precision_at_threshold: float | None


class EvaluationRate(ReportStruct, frozen=True, kw_only=True):
    """Share of parts that were rejected.

    Attributes:
        source: Source of the parts; ``all`` for all together.
        rate: ``rejected / parts``.
    """

    source: str
    parts: int
    rejected: int
    rate: float
    interval: Interval


class FalseRejectsAtRecall(ReportStruct, frozen=True, kw_only=True):
    """False rejects where all thresholds are multiplied by the factor that gives this share of rejected bad parts.

    Attributes:
        wanted: Share of the bad parts that the factor was chosen for.
        factor: Factor that all thresholds are multiplied by.
        recall: Bad parts of the judged frames that are rejected with it.
        false_rejects: Good parts that are rejected with it, by source, then all.
    """

    wanted: float
    chosen_on: str
    factor: float
    recall: EvaluationRate
    false_rejects: tuple[EvaluationRate, ...]


class CostPoint(ReportStruct, frozen=True, kw_only=True):
    """Expected cost of a verdict, as a share of what always the worse answer costs (Drummond and Holte 2006).

    Attributes:
        weight: Share of bad parts times the cost of an escape, over that and the share of good parts times the cost of
            a false reject; 0 to 1.
        cost: At the thresholds as they are: ``weight`` times the escapes plus the rest times the false rejects.
        best: With the common factor of all thresholds that is best on these frames: what is possible, not what to
            expect.
    """

    weight: float
    cost: float
    best: float


class PartVerdicts(ReportStruct, frozen=True, kw_only=True):
    """The verdict on whole parts; a rejected bad part counts as right, whatever the reason.

    Attributes:
        f1: F1 of the bad parts, at the thresholds as they are.
        precision: Precision of the rejects; ``None`` where there are none.
        false_rejects: Good parts that are rejected, by source, then all; empty where there are no good parts.
        at_recall: False rejects at a wanted recall, one entry for each set of frames that it was chosen on.
        cost_curve: Expected cost over what errors cost and how many parts are bad; empty without good parts.
    """

    f1: float
    precision: float | None
    recall: EvaluationRate
    false_rejects: tuple[EvaluationRate, ...]
    at_recall: tuple[FalseRejectsAtRecall, ...]
    cost_curve: tuple[CostPoint, ...] = ()


class WorstFrame(ReportStruct, frozen=True, kw_only=True):
    """A frame on which the model is most wrong.

    Attributes:
        file: Below the data set's folder.
        found: What the model says, above the thresholds.
        missed: True boxes that it did not find; 1 where the whole frame was taken for another type.
        false: Finds where nothing of the type is.
        weight: By which they are sorted: what was missed, and the scores of the false finds.
    """

    frame: str
    file: str
    truth: str
    found: str
    missed: int
    false: int
    weight: float


def sources_of(rates: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Returns the rates of each source, then of all; of a single source only its own."""
    return rates[:1] if len(rates) == 2 else rates


def escapes_of(recall: dict[str, Any]) -> dict[str, Any]:
    """Returns the share of bad parts that pass, with its interval, from the share that is rejected."""
    low, high = recall["interval"]["low"], recall["interval"]["high"]
    return {
        "source": recall["source"],
        "passed": recall["parts"] - recall["rejected"],
        "parts": recall["parts"],
        "rate": 1 - recall["rate"] if recall["parts"] else 0.0,
        "interval": {**recall["interval"], "low": 1 - high, "high": 1 - low},
    }
