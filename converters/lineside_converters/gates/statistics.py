"""Paired bootstrap intervals of a drop in accuracy (Efron and Tibshirani, 1993, chapter 13).

- Paired: both models judged the same frames, and a resample takes the same frames for both. What makes a frame hard
  then cancels out: the interval is of the difference alone, a good deal narrower than of two models judged apart.
- A frame is drawn whole, with all its boxes and findings: findings of one image aren't independent of each other.
- The interval is the plain percentile one. Where the models agree on every frame it is [0, 0], however few the frames:
  read it together with ``frames``.
- The same inputs and seed give the same interval.

numpy alone, as scipy's ``bootstrap`` hands a statistic resampled values, and mAP has no values by frame: here it gets
how often each frame was drawn, so that boxes are matched once and not a thousand times. The tests hold both kinds to
scipy's figures and to resampling done the long way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lineside_converters.pixel_metrics import mean_iou
from lineside_models.metrics import Bools, FoundBoxes, TrueBoxes, match_type, weighted_precisions, wilson
from lineside_runtime.errors import BadInputFormatError

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.int64]

CONFIDENCE = 0.95
RESAMPLES = 1000
"""Enough for the ends of a 95 % interval to stand within a few hundredths of its width (chapter 13.3)."""

SEED = 20

_BLOCK = 50
"""Resamples that are computed at once: faster than one by one, and 40 MB for 100,000 findings of a type."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """How much lower a metric is afterwards, with its interval; positive is worse.

    Attributes:
        before: The metric of the source model, over all frames.
        after: Value of the new model, over the same frames.
        low: Lower end of the interval of ``before - after``.
        high: Upper end: the drop is not larger, at this confidence.
        confidence: Confidence that the interval holds the true drop, 0 to 1.
        resamples: How often they were drawn again.
    """

    before: float
    after: float
    low: float
    high: float
    confidence: float
    frames: int
    resamples: int

    @property
    def drop(self) -> float:
        """``before - after``."""
        return self.before - self.after


def drop_of_mean(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Drop:
    """Returns the drop of a metric that is a mean over frames: top-1 (0 or 1 a frame), a cosine, a score.

    Args:
        before: ``(N,)``, the source model's value of each frame.
        after: ``(N,)``, the new model's, in the same order.

    Raises:
        BadInputFormatError: No frames, two lengths, or a value that is not finite.
    """
    a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise BadInputFormatError(
            "values by frame",
            expected="two lists of one length, not empty",
            actual=f"{a.shape} and {b.shape}",
            action="",
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise BadInputFormatError("values by frame", expected="finite numbers", actual="nan or infinity", action="")
    difference = a - b
    drops = _resample(len(a), lambda block: block @ difference / len(a), resamples=resamples, seed=seed)
    return _drop(float(a.mean()), float(b.mean()), drops, len(a))


def drop_of_map50(
    truths: Sequence[TrueBoxes],
    before: Sequence[FoundBoxes],
    after: Sequence[FoundBoxes],
    *,
    types: int,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Drop:
    """Returns the drop of the mean average precision; whole images are resampled.

    Args:
        before: What the source model finds in them, in the same order; all candidates.
        after: What the new model finds.
        types: How many defect types there are. One that a resample doesn't show is left out of that resample's mean.

    Raises:
        BadInputFormatError: No images, or lists that differ in length.
    """
    count = len(truths)
    if not count or len(before) != count or len(after) != count:
        raise BadInputFormatError(
            "truth and findings",
            expected="three lists of one length, not empty",
            actual=f"{count}, {len(before)} and {len(after)} images",
            action="",
        )
    models = [[_Ranked.of(truths, found, label) for label in range(types)] for found in (before, after)]

    def both(block: Weights) -> tuple[Floats, Floats]:
        first, second = (_mean_precisions(model, block) for model in models)
        return first, second

    def drop(block: Weights) -> Floats:
        first, second = both(block)
        return first - second

    drops = _resample(count, drop, resamples=resamples, seed=seed)
    (whole_before,), (whole_after,) = both(np.ones((1, count), np.int64))
    return _drop(float(whole_before), float(whole_after), drops, count)


def drop_of_f1(
    truths: Sequence[TrueBoxes],
    before: Sequence[FoundBoxes],
    after: Sequence[FoundBoxes],
    *,
    thresholds: npt.ArrayLike,
    seed: int = SEED,
) -> Drop:
    """Returns the drop of the F1 of what counts, summed over types and images; whole images are resampled.

    Args:
        before: What the source model finds in them, in the same order.
        after: What the new model finds.
        thresholds: ``(types,)``, the score from which a finding counts.

    Raises:
        BadInputFormatError: No images.
    """
    count = len(truths)
    if not count:
        raise BadInputFormatError("truth and findings", expected="images", actual="none", action="")
    tables = [_shared_and_all(truths, found, np.asarray(thresholds, np.float64)) for found in (before, after)]

    def f1(table: Floats, weights: Weights) -> float:
        shared, whole = weights @ table
        return float(shared / whole) if whole else 1.0

    def drop(weights: Weights) -> float:
        return f1(tables[0], weights) - f1(tables[1], weights)

    drops = _resample(count, _by_row(drop), seed=seed)
    ones = np.ones(count, np.int64)
    return _drop(f1(tables[0], ones), f1(tables[1], ones), drops, count)


def _shared_and_all(truths: Sequence[TrueBoxes], found: Sequence[FoundBoxes], thresholds: Floats) -> Floats:
    """Returns ``(images, 2)``: twice the right findings, and the findings and true boxes together."""
    table = np.zeros((len(truths), 2))
    for label, bar in enumerate(thresholds):
        matched = match_type(truths, found, label, min_iou=0.5)
        above = matched.scores >= bar
        right, claimed = (
            np.bincount(matched.image[rows], minlength=len(truths)) for rows in (above & matched.right, above)
        )
        table += np.stack([2 * right, claimed + matched.truths], axis=1)
    return table


def drop_of_mean_iou(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Drop:
    """Returns the drop of a mean IoU, with pixels summed over the resampled images.

    Args:
        before: ``(images, classes, classes)`` pixels by true and by said class of the source model, 0 for nothing.
        after: Value of the new model, in the same order.

    Raises:
        BadInputFormatError: No images, or two shapes.
    """
    a, b = np.asarray(before, np.int64), np.asarray(after, np.int64)
    if a.ndim != 3 or a.shape != b.shape or not len(a):
        raise BadInputFormatError(
            "pixels by image and class",
            expected="two arrays (images, classes, classes), not empty",
            actual=f"{a.shape} and {b.shape}",
            action="",
        )

    def drop(weights: Weights) -> float:
        first, second = (mean_iou(np.tensordot(weights, tables, 1)[None]) for tables in (a, b))
        return first - second

    drops = _resample(len(a), _by_row(drop), resamples=resamples, seed=seed)
    return _drop(mean_iou(a), mean_iou(b), drops, len(a))


@dataclasses.dataclass(frozen=True, slots=True)
class _Ranked:
    """All findings of one type, best first, once matched.

    Attributes:
        right: ``(N,)`` whether each matched.
        image: ``(N,)`` number of each finding's image.
        truths: ``(images,)`` how many true boxes of the type each image has.
    """

    right: Bools
    image: npt.NDArray[np.int64]
    truths: Weights

    @classmethod
    def of(cls, truths: Sequence[TrueBoxes], found: Sequence[FoundBoxes], label: int) -> _Ranked:
        matched = match_type(truths, found, label, min_iou=0.5)
        order = np.argsort(-matched.scores, kind="stable")
        return cls(matched.right[order], matched.image[order], matched.truths)


def _mean_precisions(types: Sequence[_Ranked], block: Weights) -> Floats:
    """Returns the mean average precision of each resample, in which every image counts as often as its weight."""
    total, shown = np.zeros(len(block)), np.zeros(len(block), np.int64)
    for each in types:
        truths = block @ each.truths
        total += weighted_precisions(each.right, block[:, each.image], truths)
        shown += truths > 0
    return total / np.maximum(shown, 1)


def _resample(
    frames: int,
    value: Callable[[Weights], Floats],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    parts: npt.ArrayLike | None = None,
) -> Floats:
    """Returns the value of each resample; of ``parts`` whole ones are drawn.

    Args:
        value: Takes ``(B, frames)``, how often every frame was drawn in each of B resamples, and returns ``(B,)``.
    """
    if resamples < 1:
        raise BadInputFormatError("resamples", expected="1 at least", actual=resamples, action="")
    random = np.random.default_rng(seed)
    part_of = np.arange(frames) if parts is None else np.unique(np.asarray(parts), return_inverse=True)[1]
    count = int(part_of.max()) + 1
    found = []
    for first in range(0, resamples, _BLOCK):
        drawn = [random.integers(count, size=count) for _ in range(first, min(first + _BLOCK, resamples))]
        found.append(value(np.array([np.bincount(each, minlength=count)[part_of] for each in drawn])))
    return np.concatenate(found).astype(np.float64)


def _by_row(value: Callable[[Weights], float]) -> Callable[[Weights], Floats]:
    """Returns a function of a block of resamples made of one of a single resample."""
    return lambda block: np.array([value(weights) for weights in block], np.float64)


def _drop(before: float, after: float, drops: Floats, frames: int) -> Drop:
    low, high = _ends(drops)
    return Drop(
        before=before,
        after=after,
        low=low,
        high=high,
        confidence=CONFIDENCE,
        frames=frames,
        resamples=len(drops),
    )


def interval_of_map50(
    truths: Sequence[TrueBoxes],
    found: Sequence[FoundBoxes],
    *,
    types: int,
    parts: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Returns the interval of one model's mean average precision; whole images are resampled.

    Args:
        found: What the model finds in them, in the same order; all candidates.
        parts: The part that each image shows: those of one part are drawn together.

    Raises:
        BadInputFormatError: No images, or lists that differ in length.
    """
    if not truths or len(truths) != len(found):
        raise BadInputFormatError(
            "truth and findings",
            expected="two lists of one length, not empty",
            actual=f"{len(truths)} and {len(found)} images",
            action="",
        )
    model = [_Ranked.of(truths, found, label) for label in range(types)]
    return _interval(len(truths), lambda block: _mean_precisions(model, block), parts, resamples)


def interval_of_f1(counts: npt.ArrayLike, *, parts: npt.ArrayLike | None = None) -> tuple[float, float]:
    """Returns the interval of an F1 that is summed over images; 1 for a resample with nothing to find and no finding.

    Args:
        counts: ``(images, 3)`` true positives, false positives and false negatives.
        parts: As for `interval_of_ratio`.

    Raises:
        BadInputFormatError: No images, or another shape.
    """
    table = np.asarray(counts, np.float64)
    if table.ndim != 2 or table.shape[1] != 3 or not len(table):
        raise BadInputFormatError("counts", expected="(images, 3), not empty", actual=table.shape, action="")
    right = 2 * table[:, 0]
    return interval_of_ratio(right, right + table[:, 1] + table[:, 2], parts=parts, empty=1.0)


def interval_of_ratio(
    counts: npt.ArrayLike, totals: npt.ArrayLike, *, parts: npt.ArrayLike | None = None, empty: float = float("nan")
) -> tuple[float, float]:
    """Returns the interval of ``sum(counts) / sum(totals)`` over images.

    Args:
        counts: ``(images,)``.
        totals: ``(images,)``, not all zero.
        parts: The part that each image shows: those of one part are drawn together.
        empty: Value of a resample whose total is zero; not a number to leave it out.
    """
    count, total = np.asarray(counts, np.float64), np.asarray(totals, np.float64)

    def ratio(weights: Weights) -> float:
        whole = weights @ total
        return float(weights @ count / whole) if whole else empty

    return _interval(len(count), _by_row(ratio), parts)


def _interval(
    frames: int,
    value: Callable[[Weights], Floats],
    parts: npt.ArrayLike | None,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Returns the interval over frames, or over parts where that is wider: few parts may agree by chance."""
    values = [_resample(frames, value, resamples=resamples)]
    if parts is not None and len(np.unique(np.asarray(parts))) < frames:
        values.append(_resample(frames, value, resamples=resamples, parts=parts))
    ends = [_ends(each) for each in values]
    return min(low for low, _ in ends), max(high for _, high in ends)


def interval_of_share(hits: Bools, parts: npt.ArrayLike) -> tuple[float, float]:
    """Returns the ends of the 95 % interval of a share of frames, of which several may show one part.

    Cluster bootstrap: whole parts are drawn again (Field and Welsh 2007, "Bootstrapping clustered data"). Frames of one
    part are alike, so that an interval which takes them as independent is too narrow. Few parts, or none with a hit,
    say too little of how parts differ, so that it is never narrower than Wilson's interval of the frames.

    Args:
        hits: ``(F,)``.
        parts: ``(F,)``: the part that each frame shows.
    """
    low, high = wilson(int(hits.sum()), len(hits))
    return widened_by_parts((low, high), hits, parts) if hits.any() else (low, high)


def widened_by_parts(ends: tuple[float, float], values: npt.ArrayLike, parts: npt.ArrayLike) -> tuple[float, float]:
    """Returns the ends of an interval of a mean over frames, moved outwards to those of a bootstrap over parts.

    Args:
        ends: Of the interval that takes frames as independent.
        values: ``(F,)``.
        parts: ``(F,)``: the part that each frame shows; where each shows another one, the ends stay.
    """
    part_of = np.unique(np.asarray(parts), return_inverse=True)[1]
    frames, sums = np.bincount(part_of), np.bincount(part_of, weights=np.asarray(values, np.float64))
    if len(frames) == len(part_of):
        return ends
    drawn = np.random.default_rng(SEED).multinomial(len(frames), np.full(len(frames), 1 / len(frames)), size=RESAMPLES)
    low, high = _ends((drawn @ sums) / (drawn @ frames))
    return min(ends[0], low), max(ends[1], high)


def _ends(values: Floats) -> tuple[float, float]:
    low, high = np.nanquantile(values, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def interval_of_mean_iou(shared: npt.ArrayLike, union: npt.ArrayLike) -> tuple[float, float]:
    """Returns the interval of a mean IoU, with pixels summed over the resampled images.

    Args:
        shared: ``(images, types)`` pixels that mask and answer both show.
        union: ``(images, types)`` pixels that one of them shows.

    Raises:
        BadInputFormatError: No images, or two shapes.
    """
    both, either = np.asarray(shared, np.float64), np.asarray(union, np.float64)
    if both.ndim != 2 or both.shape != either.shape or not both.size:
        raise BadInputFormatError(
            "pixels by image and type",
            expected="two arrays (images, types), not empty",
            actual=f"{both.shape} and {either.shape}",
            action="",
        )

    def mean(weights: Weights) -> float:
        whole = weights @ either
        return float(np.mean((weights @ both)[whole > 0] / whole[whole > 0])) if (whole > 0).any() else 0.0

    return _ends(_resample(len(both), _by_row(mean)))
