"""Good parts in an evaluation: their sources, and how many of them are rejected."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lineside_converters.data.calibration_data import AnnotatedFrame, AnnotatedFrames, annotated_frame
from lineside_converters.data.reference_frames import compares, split_by_registration
from lineside_converters.evaluation.figures import (
    CostPoint,
    EvaluationRate,
    FalseRejectsAtRecall,
    Interval,
    PartVerdicts,
)
from lineside_converters.gates.statistics import interval_of_share
from lineside_models.datasets import ALL, Dataset, load_dataset
from lineside_models.datasets.folds import has_fold, parts_of
from lineside_models.frame import Frame
from lineside_models.labels import PCB, STEEL
from lineside_models.metrics import CONFIDENCE, DetectionCounts, FoundBoxes, wilson
from lineside_models.simulator import Kind, render
from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import BadInputFormatError

CLEAN_SEED = 3_000_017
"""Neither training, nor the optimizer, nor the demo draws from this stream."""

RECALL_WANTED = 0.99

COST_POINTS = 51

JUDGED = "the judged frames themselves"
"""A threshold that is chosen on them is what would be possible, not what to expect."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class GoodParts:
    """Good parts of one source.

    Attributes:
        frames: Read or drawn when their turn comes.
        parts: Part that each frame shows; then those of the faults.
        faults: Further ones, which can't be compared with their reference.
    """

    source: str
    count: int
    frames: AnnotatedFrames
    parts: Sequence[str]
    faults: int = 0


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


def templates(root: Path, dataset: Dataset, fold: str, manifest: Manifest) -> list[GoodParts]:
    """Returns the data set's defect-free templates, without those of its train fold.

    For a model that compares frames with a reference another part is drawn from each template.
    """
    with_clean = load_dataset(root, fold, with_clean=True, references=compares(manifest))
    seen = {sample.path for sample in dataset.samples}
    if fold == ALL and has_fold(root, "train"):
        seen |= {sample.path for sample in load_dataset(root, "train", with_clean=True).samples}
    clean = [one for one in with_clean.samples if not len(one.labels) and one.path not in seen]
    samples, faults = split_by_registration(clean, manifest)
    if not clean:
        return []
    frames = AnnotatedFrames([partial(annotated_frame, one, (), number, dataset) for number, one in enumerate(samples)])
    source = "parts drawn from templates" if compares(manifest) else "templates"
    part_of = parts_of(root, dataset.name)
    parts = [part_of(one) for one in (*samples, *faults)]
    return [GoodParts(f"{source} of {dataset.name}, fold {fold}", len(samples), frames, parts, len(faults))]


def simulated(count: int, types: Sequence[str]) -> list[GoodParts]:
    """Returns clean frames of the line simulator, of the surfaces that the types lie on."""
    if not count:
        return []
    surfaces: tuple[tuple[Kind, Sequence[str]], ...] = (("steel", STEEL), ("pcb", PCB))
    kinds = [kind for kind, own in surfaces if set(own) & set(types)]
    if count < 0 or not kinds:
        raise BadInputFormatError(
            "clean simulator frames",
            expected="a number from 0, and types of steel strip or boards",
            actual=f"{count} for {', '.join(types)[:80]}",
            action="Leave out --clean-simulated for other surfaces.",
        )
    parts = [f"clean {number}" for number in range(count)]
    return [GoodParts(f"clean simulator frames ({' and '.join(kinds)})", count, _drawn(count, kinds), parts)]


def _drawn(count: int, kinds: Sequence[Kind]) -> AnnotatedFrames:
    return AnnotatedFrames([partial(_draw, number, kinds[number % len(kinds)]) for number in range(count)])


def _draw(number: int, kind: Kind) -> AnnotatedFrame:
    seed = int(np.random.SeedSequence([CLEAN_SEED, number]).generate_state(1)[0])
    frame = Frame(
        image=render(kind, seed, defects=0).image, source="simulator", sequence=number, part_id=f"clean-{seed}"
    )
    return AnnotatedFrame(frame, np.empty((0, 4), np.float32), np.empty(0, np.int64))


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
