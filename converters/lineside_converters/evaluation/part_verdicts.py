"""The verdict on whole parts, for every task: escapes, false rejects and their cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lineside_converters.evaluation.figures import (
    CostPoint,
    EvaluationRate,
    FalseRejectsAtRecall,
    Interval,
    PartVerdicts,
    WorstFrame,
)
from lineside_converters.evaluation.worst_frames import WORST_MAX
from lineside_converters.gates.statistics import interval_of_share
from lineside_models.datasets.base import sample_of
from lineside_models.datasets.folds import parts_of
from lineside_models.inspection import Detection, Verdict
from lineside_models.metrics import CONFIDENCE, DetectionCounts, FoundBoxes, wilson

RECALL_WANTED = 0.99

COST_POINTS = 51

JUDGED = "the judged frames themselves"
"""A threshold that is chosen on them is what would be possible, not what to expect."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class PartStrengths:
    """Strengths of frames, and the part that each shows.

    Attributes:
        values: ``(frames,)``, from `strengths`.
        parts: ``(frames,)``: frames of one part are alike, which an interval takes into account.
    """

    values: Floats
    parts: Sequence[str]

    def of(self, chosen: Bools) -> PartStrengths:
        """Returns those of some frames."""
        return PartStrengths(self.values[chosen], [part for part, one in zip(self.parts, chosen, strict=True) if one])


class Decided(Protocol):
    """An `Inspection` or a `Decision`."""

    @property
    def detections(self) -> Sequence[Detection]:
        """The defects."""

    @property
    def near_miss(self) -> float:
        """The strongest candidate that is no defect: its share of its threshold."""

    @property
    def verdict(self) -> Verdict:
        """Whether the part passes."""


def strength_of(decided: Decided | None, thresholds: Mapping[str, float]) -> float:
    """Returns the strongest find's share of its threshold: 1 or more is a reject.

    Args:
        decided: ``None`` for a part that could not be inspected, which the line rejects at any threshold.
        thresholds: Least score of a defect of each type.
    """
    if decided is None:
        return float("inf")
    if decided.verdict == "good":
        return min(decided.near_miss, float(np.nextafter(1.0, 0.0)))
    shares = (each.score / thresholds[each.type] for each in decided.detections if thresholds[each.type])
    return max(1.0, max(shares, default=1.0))  # of a type of two models the other one's threshold may be higher


def parts_shown(root: Path, images: Sequence[Path], layout: str = "") -> list[str]:
    """Returns the part that each image of a data set's folder shows, as `parts_of` names it."""
    part_of = parts_of(root, layout)
    return [part_of(sample_of(image, [], [])) for image in images]


def part_verdicts(strengths: Sequence[float], good: Sequence[bool], parts: Sequence[str], *, fold: str) -> PartVerdicts:
    """Returns the figures of the verdicts on parts.

    Args:
        strengths: By frame, as `strength_of`.
    """
    strong, is_good = PartStrengths(np.array(strengths, np.float64), parts), np.array(good, np.bool_)
    bad = strong.of(~is_good)
    goods = [(f"good parts, fold {fold}", strong.of(is_good))] if is_good.any() else []
    return good_or_bad(bad, goods, [(JUDGED, bad.values[np.isfinite(bad.values)])])


def worst_verdicts(
    files: Sequence[str], kinds: Sequence[str], strengths: Sequence[float], good: Sequence[bool]
) -> tuple[WorstFrame, ...]:
    """Returns the parts with a wrong verdict: good ones that are rejected most clearly, and bad ones that pass.

    Args:
        files: Below the data set's folder.
        strengths: By part, as `strength_of`.
    """
    rows = [
        WorstFrame(
            frame=file.rsplit("/", 1)[-1],
            file=file,
            truth=kind,
            found="not inspected" if np.isinf(strength) else f"{strength:.2f} of the threshold",
            missed=int(not is_good),
            false=int(is_good),
            weight=round(min(abs(strength - 1), 1e6), 4),
        )
        for file, kind, strength, is_good in zip(files, kinds, strengths, good, strict=True)
        if (strength >= 1) == is_good
    ]
    return tuple(sorted(rows, key=lambda row: -row.weight)[:WORST_MAX])


def strengths(found: Sequence[FoundBoxes], thresholds: Floats) -> Floats:
    """Returns ``(frames,)``: the strongest find's share of its threshold; 1 or more is a reject, 0 is no find."""
    return np.array([float(np.max(each.scores / thresholds[each.labels], initial=0.0)) for each in found], np.float64)


def with_faults(strong: Floats, faults: int) -> Floats:
    """Returns the strengths with those of frames that were not compared: the line rejects these at any threshold."""
    return np.append(strong, np.full(faults, np.inf))


def good_or_bad(
    bad: PartStrengths, good: Sequence[tuple[str, PartStrengths]], chosen: Sequence[tuple[str, Floats]]
) -> PartVerdicts:
    """Evaluates the verdict on whole parts.

    Args:
        good: Of the good parts, by source.
        chosen: Strengths of the bad parts that the factor for a wanted recall is chosen on, by name of the frames.
    """
    rejected = int((bad.values >= 1).sum())
    false = rates(good, 1.0)
    counts = DetectionCounts(rejected, false[-1].rejected if false else 0, len(bad.values) - rejected)
    return PartVerdicts(
        f1=counts.f1,
        precision=counts.precision_or_none,
        recall=rate("bad parts", bad, 1.0),
        false_rejects=false,
        at_recall=tuple(
            FalseRejectsAtRecall(
                wanted=RECALL_WANTED,
                chosen_on=name,
                factor=(factor := factor_of(of, RECALL_WANTED)),
                recall=rate("bad parts", bad, factor),
                false_rejects=rates(good, factor),
            )
            for name, of in chosen
            if good and len(of) and len(bad.values)
        ),
        cost_curve=_cost_curve(bad.values, _together(good).values) if good and len(bad.values) else (),
    )


def _cost_curve(bad: Floats, good: Floats) -> tuple[CostPoint, ...]:
    factors = np.unique(np.concatenate([bad, good, [np.inf]]))
    factors = factors[factors > 0]
    found, rejected = ((of[:, None] >= factors).mean(axis=0) for of in (bad, good))
    points = []
    for weight in np.linspace(0, 1, COST_POINTS):
        costs = weight * (1 - found) + (1 - weight) * rejected
        own = weight * (bad < 1).mean() + (1 - weight) * (good >= 1).mean()
        best = min(costs.min(), own, weight, 1 - weight)
        points.append(CostPoint(weight=round(float(weight), 2), cost=round(float(own), 5), best=round(float(best), 5)))
    return tuple(points)


def factor_of(bad: Floats, wanted: float) -> float:
    """Returns the largest factor with which at least this share of the bad parts is rejected."""
    may_pass = math.floor((1 - wanted) * len(bad) + 1e-9)
    return float(np.sort(bad)[may_pass])


def rates(good: Sequence[tuple[str, PartStrengths]], factor: float) -> tuple[EvaluationRate, ...]:
    """Returns the false rejects of each source and of all; empty without good parts."""
    if not good:
        return ()
    return (*(rate(source, each, factor) for source, each in good), rate("all", _together(good), factor))


def _together(good: Sequence[tuple[str, PartStrengths]]) -> PartStrengths:
    return PartStrengths(
        np.concatenate([each.values for _, each in good]), [part for _, each in good for part in each.parts]
    )


def rate(source: str, strength: PartStrengths, factor: float) -> EvaluationRate:
    """Returns how many frames are rejected, with an interval by part (`interval_of_share`)."""
    hits = (strength.values >= factor) & (strength.values > 0)
    rejected, count = int(hits.sum()), len(hits)
    low, high = interval_of_share(hits, strength.parts)
    method = "wilson" if (low, high) == wilson(rejected, count) else "bootstrap"
    return EvaluationRate(
        source=source,
        parts=count,
        rejected=rejected,
        rate=rejected / count if count else 0.0,
        interval=Interval(low=low, high=high, confidence=CONFIDENCE, method=method),
    )
