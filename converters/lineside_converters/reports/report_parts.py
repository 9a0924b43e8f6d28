"""Optional parts of ``report.json``: layers, curves, searches, confusions and variants."""

from __future__ import annotations

import msgspec

from lineside_runtime.precision import Precision


class ReportStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the report; an unknown field is an error."""


class MetricChange(ReportStruct, frozen=True, kw_only=True):
    """The task's metric before and after on the same frames, with the interval of its drop.

    Attributes:
        name: Name of the metric, such as ``mAP@0.5`` or ``top-1``.
        after: Value of the new model.
        low: Lower end of the paired bootstrap interval of ``before - after``.
        frames: Both were judged on.
    """

    name: str
    before: float
    after: float
    low: float
    high: float
    confidence: float
    frames: int


class LayerChoice(ReportStruct, frozen=True, kw_only=True):
    """Precision of one layer.

    Attributes:
        precision: Precision that it runs in now.
        why: In a few words: ``quantised``, ``first convolution``, ``hurt the outputs most``, …
        macs: Multiply-accumulates of one frame; 0 if not counted.
        harm: What making this layer alone INT8 did to the judge that chose, more is worse; ``None`` if not tried.
    """

    name: str
    kind: str
    precision: Precision
    why: str
    macs: int = 0
    harm: float | None = None


class SensitivityCurve(ReportStruct, frozen=True, kw_only=True):
    """The metric with a part of one layer's channels pruned, all others whole.

    Attributes:
        layer: Name of the layer, or of layers that can only be pruned together.
        ratios: Shares of removed channels, rising, from 0.
        metrics: The metric at each.
        chosen: The share that was removed in the end.
    """

    layer: str
    ratios: tuple[float, ...]
    metrics: tuple[float, ...]
    chosen: float


class SearchPoint(ReportStruct, frozen=True, kw_only=True):
    """One model that a search measured.

    Attributes:
        series: Who proposed it: ``search``, ``random``, ``level 2``, ``source``.
        what: What it is, for people: its pruning, recipe, input size and engine.
        front: Whether none measured is both faster and better.
        shipped: Whether it is what the bundle holds.
    """

    latency_ms: float
    metric: float
    series: str
    what: str
    front: bool = False
    shipped: bool = False


class Hypervolume(ReportStruct, frozen=True, kw_only=True):
    """Area of latency and metric that a series' front covers, against one reference point for all series.

    Attributes:
        series: As in `SearchPoint`.
        value: Milliseconds times metric.
    """

    series: str
    value: float


class Confusion(ReportStruct, frozen=True, kw_only=True):
    """Confusion matrices: rows are the truth, columns the model's answer.

    Attributes:
        labels: Labels of rows and columns. A detector's last is ``nothing``: misses in its column, false finds in its
            row.
        before: Counts of the source model.
        after: Counts of what was made of it.
    """

    labels: tuple[str, ...]
    before: tuple[tuple[int, ...], ...]
    after: tuple[tuple[int, ...], ...]


class Disagreement(ReportStruct, frozen=True, kw_only=True):
    """A frame on which the two models differ; without image, as a data set's may not be shipped.

    Attributes:
        truth: What is there; empty if nobody knows.
        before: Answers of the source model.
        after: Answers of the new one.
    """

    frame: str
    truth: str
    before: str
    after: str


class VariantFigures(ReportStruct, frozen=True, kw_only=True):
    """One variant of the bundle, or one that was measured and left out.

    Attributes:
        latency_ms: Latency of a frame on that engine; ``None`` if it couldn't be measured here.
        kept: Whether the bundle holds it.
        why: The measured reason.
    """

    name: str
    engine: str
    precision: str
    latency_ms: float | None
    size_bytes: int
    kept: bool
    why: str
