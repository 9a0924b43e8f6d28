"""The verdict on whole parts, for every task: escapes, false rejects and their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from lineside_converters.evaluation.figures import PartVerdicts, WorstFrame
from lineside_converters.evaluation.good_parts import JUDGED, PartStrengths, good_or_bad
from lineside_converters.evaluation.worst_frames import WORST_MAX
from lineside_models.datasets.base import sample_of
from lineside_models.datasets.folds import parts_of
from lineside_models.inspection import Detection, Verdict


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
