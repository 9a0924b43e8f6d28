"""`Detection` and `Inspection`: the verdict on one frame."""

from __future__ import annotations

from typing import Literal

import msgspec

from lineside_models.identification.mark_reading import MarkReading
from lineside_models.metrology.measurement import Measurement

Verdict = Literal["good", "bad", "unsure"]
"""``unsure``: no defect, but a person is to look. On the line only ``good`` passes."""


PROBABILITIES_MAX = 5
"""Classes whose probabilities a verdict carries."""


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """One defect.

    Attributes:
        type: Defect type, one of the bundle's labels.
        score: Estimated probability that the detection is right, 0 to 1.
        box: ``(x1, y1, x2, y2)`` in pixels of the frame, x2 and y2 exclusive.
        outline: Corners ``(x, y)`` of what it covers, in pixels of the frame; empty where the model gives boxes only.
    """

    type: str
    score: float
    box: tuple[float, float, float, float]
    outline: tuple[tuple[float, float], ...] = ()


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Time of one frame by stage, in milliseconds."""

    preprocess_ms: float = 0.0
    inference_ms: float = 0.0
    postprocess_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """Sum of the three."""
        return self.preprocess_ms + self.inference_ms + self.postprocess_ms


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one frame.

    Attributes:
        part_id: The inspected part, as in the `Frame`, or as a rule in ``read`` with ``part_id`` has read it.
        sequence: Number of the frame at its source.
        captured_at_ns: Unix time of the capture in nanoseconds.
        passed: True if the verdict is ``good``; on the line everything else is a reject.
        verdict: ``good``, ``bad`` (a defect was found, a measured value is out of tolerance, or a mark rejects the
            part) or ``unsure`` (also where `fault` says that it could not be judged).
        detections: The defects, highest score first.
        doubtful: What the verdict was unsure of: candidates in their type's band below the threshold.
        bundle: ``name@version`` of the bundle that judged.
        requested_device: Device that the configuration asked for, such as ``cpu:0``.
        used_device: Device that ran, such as ``ort/cpu:0``.
        fallbacks: Calls of the model that another device answered than the first one asked for.
        cache_hits: Calls that the result cache answered.
        width: Of the frame, in pixels.
        height: Of the frame, in pixels.
        near_miss: How near the strongest candidate came that is no defect: its share of its threshold, 0 to 1.
            Exact from 0.5 on; what came no nearer may be told as less.
        anomaly_score: How unlike good parts the frame is, 0 to 1; ``None`` where the model knows types of defects.
        probabilities: Of a classifier's likeliest classes, by name and the best first, those of good parts too; at most
            `PROBABILITIES_MAX`. Empty for other models.
        requested_variant: Variant of the bundle that was to judge, where an agent chooses; empty elsewhere.
        used_variant: Variant that judged: a faster one where the frame would have been late, or the box is hot.
        recipe: Name of the product's recipe under which an agent judged; empty without one.
        measurements: Values of the rules in ``measure``, in their order.
        readings: Marks of the rules in ``read``, in their order.
        frame_problem: Why the frame can't be judged, as `Rules.frame_problem`; empty if it can.
    """

    part_id: str
    source: str = ""
    sequence: int = 0
    captured_at_ns: int = 0
    passed: bool
    verdict: Verdict
    detections: tuple[Detection, ...] = ()
    doubtful: tuple[Detection, ...] = ()
    timings: Timings = Timings()
    bundle: str = ""
    requested_device: str = ""
    used_device: str = ""
    fallbacks: int = 0
    cache_hits: int = 0
    width: int = 0
    height: int = 0
    near_miss: float = 0.0
    anomaly_score: float | None = None
    probabilities: dict[str, float] = {}
    recipe: str = ""
    requested_variant: str = ""
    used_variant: str = ""
    measurements: tuple[Measurement, ...] = ()
    readings: tuple[MarkReading, ...] = ()
    frame_problem: str = ""

    @property
    def fault(self) -> str:
        """Why the part cannot pass: the frame can't show it, or rules could not be measured or read; empty if none."""
        found = [self.frame_problem] if self.frame_problem else []
        found += [f"{one.name}: {one.error}" for one in self.measurements if one.error]
        return "; ".join(found + [one.summary for one in self.readings if one.failure == "fault"])

    @property
    def refused(self) -> tuple[MarkReading, ...]:
        """The marks that reject the part."""
        return tuple(one for one in self.readings if one.failure == "reject")

    @property
    def out_of_tolerance(self) -> tuple[Measurement, ...]:
        """The measured values that are outside their limits."""
        return tuple(one for one in self.measurements if not one.in_tolerance and not one.error)

    def __post_init__(self) -> None:
        if self.passed != (self.verdict == "good"):
            raise ValueError(f"a part that is {self.verdict} can't have passed = {self.passed}")
