"""Accuracy: mAP, precision, recall and F1 of detectors by box, image and part; AUROC; intervals of shares.

Matching and interpolation are those of COCO (Lin et al. 2014; ``pycocotools.cocoeval``), against which the
tests hold them: pycocotools itself needs a compiler on boards, and knows neither thresholds nor images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lineside_runtime.errors import BadInputFormatError, InputError

Bools = npt.NDArray[np.bool_]

CONFIDENCE = 0.95
"""Of intervals."""

RECALL_POINTS = 101
"""Recalls at which precision is read, from 0 to 1 (COCO)."""

DETECTIONS_MAX = 100
"""Detections of one type that count in one image, best first (COCO's ``maxDets``)."""


class TrueBoxes(Protocol):
    """True boxes of an image, such as a `Sample` or a `SimulatedFrame`."""

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """``(N, 4)``, ``x1, y1, x2, y2``, x2 and y2 exclusive."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """``(N,)`` indices of types."""


class FoundBoxes(TrueBoxes, Protocol):
    """Boxes found in an image, such as `Candidates`."""

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """``(N,)``, higher is surer."""


@dataclasses.dataclass(frozen=True, slots=True)
class DetectionCounts:
    """Hits and errors; precision and recall are 1 if they are undefined.

    Attributes:
        tp: Found, and there.
        fp: Found, and not there.
        fn: There, and not found.
    """

    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        """Share of the findings that are right."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def precision_or_none(self) -> float | None:
        """Precision; ``None`` if nothing was found."""
        return self.precision if self.tp + self.fp else None

    @property
    def recall(self) -> float:
        """Share of the defects that were found."""
        return _share(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of the two."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def as_dict(self) -> dict[str, Any]:
        """Returns counts and rates."""
        rates = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {**dataclasses.asdict(self), **{name: round(rate, 4) for name, rate in rates.items()}}


@dataclasses.dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Figures of one defect type.

    Attributes:
        ap50: Average precision at IoU 0.5; ``None`` if no image shows the type.
        images: Is this type in this image?
        truths: How many true boxes there are.
    """

    ap50: float | None
    boxes: DetectionCounts
    images: DetectionCounts
    truths: int


@dataclasses.dataclass(frozen=True, slots=True)
class DetectionMetrics:
    """Figures of one detector on one set of images.

    Attributes:
        map50: Mean of the types' average precision at IoU 0.5, over the types that the images show.
        boxes: Sum over the types, boxes at the thresholds.
        image_types: Sum over the types: is this type in this image?
        parts: Good or bad? A bad part that was rejected, whatever the reason, is a hit.
        clean: How many images truly show no defect.
    """

    images: int
    map50: float
    classes: dict[str, ClassMetrics]
    boxes: DetectionCounts
    image_types: DetectionCounts
    parts: DetectionCounts
    clean: int

    @property
    def macro_f1_boxes(self) -> float:
        """Mean of the box F1 of the types that the images show."""
        return _mean([each.boxes.f1 for each in self.classes.values() if each.truths])

    @property
    def macro_f1_images(self) -> float:
        """Mean of the image F1 of the types that the images show."""
        return _mean([each.images.f1 for each in self.classes.values() if each.truths])

    def as_dict(self) -> dict[str, Any]:
        """Returns the figures as they travel in JSON.

        ``f1`` is by image and type, summed over the types; ``f1_boxes`` by box.
        """
        return {
            "images": self.images,
            "clean": self.clean,
            "map50": round(self.map50, 4),
            "f1": round(self.image_types.f1, 4),
            "f1_macro": round(self.macro_f1_images, 4),
            "f1_boxes": round(self.boxes.f1, 4),
            "f1_boxes_macro": round(self.macro_f1_boxes, 4),
            "f1_good_or_bad": round(self.parts.f1, 4),
            "boxes": self.boxes.as_dict(),
            "image_types": self.image_types.as_dict(),
            "good_or_bad": self.parts.as_dict(),
            "classes": {name: _class_dict(each) for name, each in self.classes.items()},
        }


def evaluate(
    truths: Sequence[TrueBoxes],
    found: Sequence[FoundBoxes],
    *,
    labels: Sequence[str],
    thresholds: npt.ArrayLike,
    min_iou: float = 0.5,
) -> DetectionMetrics:
    """Evaluates the boxes of a detector.

    Args:
        found: The same images, in the same order; all candidates, not only those above a threshold.
        labels: Names of the types that the indices mean.
        thresholds: Score from which a finding counts, one number or one a type. mAP doesn't look at it.
        min_iou: Overlap from which a box is right.

    Returns:
        The figures.

    Raises:
        BadInputFormatError: The two lists, or labels and thresholds, differ in length.
    """
    if len(truths) != len(found):
        raise BadInputFormatError("truth and findings", expected=f"{len(truths)} images", actual=len(found), action="")
    bars = np.asarray(thresholds, np.float64)
    if bars.ndim and bars.shape != (len(labels),):
        raise BadInputFormatError("thresholds", expected=f"1 or {len(labels)} numbers", actual=bars.shape, action="")
    bars = np.broadcast_to(bars, (len(labels),))
    classes = {
        name: _evaluate_class(truths, found, label, bar=float(bars[label]), min_iou=min_iou)
        for label, name in enumerate(labels)
    }
    really = np.array([len(truth.labels) > 0 for truth in truths], bool)
    claimed = np.array([bool((each.scores >= bars[each.labels]).any()) for each in found], bool)
    return DetectionMetrics(
        images=len(truths),
        map50=_mean([each.ap50 for each in classes.values() if each.ap50 is not None]),
        classes=classes,
        boxes=_total([each.boxes for each in classes.values()]),
        image_types=_total([each.images for each in classes.values()]),
        parts=compare(really, claimed),
        clean=int((~really).sum()),
    )


def average_precision(scores: npt.NDArray[np.float64], right: Bools, truths: int) -> float:
    """Returns COCO's average precision of one type.

    Args:
        scores: ``(N,)`` of the detections of all images.
        right: ``(N,)`` whether each matched a true box of its own.
        truths: How many true boxes there are, 1 at least.
    """
    order = np.argsort(-scores, kind="stable")
    return float(precision_at_recalls(right[order], truths).mean())


def weighted_precisions(
    right: Bools, weights: npt.NDArray[np.int64], truths: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Returns COCO's average precision ``(R,)`` of detections under several weightings; 0 for one without a true box.

    Precision is highest at a right detection, so that only these are looked at.

    Args:
        right: ``(N,)`` whether each detection matched a true box of its own, highest score first.
        weights: ``(R, N)`` how many detections each stands for, 0 or more.
        truths: ``(R,)`` how many true boxes there are.
    """
    hits = np.cumsum(weights[:, right], axis=1)
    seen = np.cumsum(weights, axis=1)[:, right]
    precision = hits / np.maximum(seen, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = hits / np.maximum(truths, 1)[:, None]
    reached = np.searchsorted(np.linspace(0, 1, RECALL_POINTS), recall, side="right")
    points = np.diff(reached, axis=1, prepend=0)
    return np.asarray((envelope * points).sum(axis=1) / RECALL_POINTS, np.float64)


def precision_at_recalls(right: Bools, truths: int) -> npt.NDArray[np.float64]:
    """Returns the best precision ``(101,)`` at each recall from 0 to 1 or a higher one; 0 where it isn't reached.

    Args:
        right: ``(N,)`` whether each detection matched a true box of its own, highest score first.
        truths: How many true boxes there are, 1 at least.
    """
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(hits / truths, np.linspace(0, 1, RECALL_POINTS), side="left")
    return np.asarray(np.append(envelope, 0.0)[place], np.float64)


def box_iou(first: npt.NDArray[np.floating[Any]], second: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Returns ``(N, M)`` overlaps, intersection over union, of ``(N, 4)`` with ``(M, 4)`` boxes."""
    left, top, right, bottom = (side[:, None] for side in first.astype(np.float64).T)
    x1, y1, x2, y2 = second.astype(np.float64).T
    shared = np.maximum(np.minimum(right, x2) - np.maximum(left, x1), 0)
    shared *= np.maximum(np.minimum(bottom, y2) - np.maximum(top, y1), 0)
    union = (right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), np.float64)


def match(found_boxes: npt.NDArray[Any], true_boxes: npt.NDArray[Any], *, min_iou: float = 0.5) -> Bools:
    """Matches detections of one type in one image with true boxes: each with the best free one.

    Args:
        found_boxes: ``(N, 4)``, highest score first.
        true_boxes: ``(M, 4)``.
        min_iou: Overlap from which a pair counts.

    Returns:
        ``(N,)`` whether each detection found a partner.
    """
    right = np.zeros(len(found_boxes), bool)
    if not len(true_boxes):
        return right
    overlap = box_iou(found_boxes, true_boxes)
    for row in range(len(found_boxes)):
        best = overlap.shape[1] - 1 - int(overlap[row, ::-1].argmax())  # of equals the last, as COCO does
        if overlap[row, best] >= min(min_iou, 1 - 1e-10):
            right[row] = True
            overlap[:, best] = -1
    return right


@dataclasses.dataclass(frozen=True, slots=True)
class Matched:
    """The detections of one type in all images, image after image.

    Attributes:
        scores: ``(N,)``.
        right: ``(N,)`` whether each matched a true box of its own.
        image: ``(N,)`` number of each one's image.
        truths: ``(images,)`` how many true boxes of the type each image has.
    """

    scores: npt.NDArray[np.float64]
    right: Bools
    image: npt.NDArray[np.int64]
    truths: npt.NDArray[np.int64]


def match_type(
    truths: Sequence[TrueBoxes], found: Sequence[FoundBoxes], label: int, *, min_iou: float = 0.5
) -> Matched:
    """Matches the detections of one type with the true boxes, in each image its best ``DETECTIONS_MAX``."""
    scores, right = [np.empty(0)], [np.empty(0, bool)]
    counts = np.zeros(len(truths), np.int64)
    for number, (truth, each) in enumerate(zip(truths, found, strict=True)):
        true_boxes = truth.boxes[truth.labels == label]
        mine = np.flatnonzero(each.labels == label)
        mine = mine[np.argsort(-each.scores[mine], kind="stable")][:DETECTIONS_MAX]
        scores.append(each.scores[mine].astype(np.float64))
        right.append(match(each.boxes[mine], true_boxes, min_iou=min_iou))
        counts[number] = len(true_boxes)
    image = np.repeat(np.arange(len(truths)), [len(part) for part in scores[1:]])
    return Matched(np.concatenate(scores), np.concatenate(right), image, counts)


def _evaluate_class(
    truths: Sequence[TrueBoxes], found: Sequence[FoundBoxes], label: int, *, bar: float, min_iou: float
) -> ClassMetrics:
    matched = match_type(truths, found, label, min_iou=min_iou)
    count = int(matched.truths.sum())
    above = matched.scores >= bar
    hits = int(matched.right[above].sum())
    claimed = np.bincount(matched.image[above], minlength=len(truths)) > 0
    return ClassMetrics(
        ap50=average_precision(matched.scores, matched.right, count) if count else None,
        boxes=DetectionCounts(hits, int(above.sum()) - hits, count - hits),
        images=compare(matched.truths > 0, claimed),
        truths=count,
    )


def compare(really: Bools, claimed: Bools) -> DetectionCounts:
    """Returns the counts of right, false and missed claims."""
    return DetectionCounts(
        int((really & claimed).sum()), int((~really & claimed).sum()), int((really & ~claimed).sum())
    )


def _total(counts: Sequence[DetectionCounts]) -> DetectionCounts:
    return DetectionCounts(
        sum(each.tp for each in counts), sum(each.fp for each in counts), sum(each.fn for each in counts)
    )


def _class_dict(each: ClassMetrics) -> dict[str, Any]:
    return {
        "ap50": None if each.ap50 is None else round(each.ap50, 4),
        "truths": each.truths,
        "boxes": each.boxes.as_dict(),
        "images": each.images.as_dict(),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def auroc(good: npt.ArrayLike, bad: npt.ArrayLike) -> float:
    """Returns the area under the receiver operating characteristic, 0.5 for chance and 1 for perfect.

    By Mann and Whitney's U: the share of pairs of a good and a bad one in which the bad one has the higher score; pairs
    with equal scores count half.

    Raises:
        InputError: There are none of one kind, or a score is no number.
    """
    low, high = np.sort(np.asarray(good, np.float64).ravel()), np.asarray(bad, np.float64).ravel()
    if not low.size or not high.size or not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError(
            "AUROC needs scores of good and of bad ones",
            expected="at least one of each, all finite",
            actual=f"{low.size} good and {high.size} bad",
        )
    below = np.searchsorted(low, high, side="left").sum()
    upto = np.searchsorted(low, high, side="right").sum()
    return float((below + upto) / 2 / (low.size * high.size))


def wilson(hits: int, trials: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Returns the ends of Wilson's score interval (Wilson 1927) of ``hits / trials``; (0, 1) without trials.

    Args:
        hits: How often it happened, 0 to ``trials``.
        trials: How often it could have.
        confidence: Confidence level, between 0 and 1.

    Raises:
        BadInputFormatError: A number is out of range.
    """
    if not 0 <= hits <= trials or not 0 < confidence < 1:
        raise BadInputFormatError(
            "a rate",
            expected="0 <= hits <= trials, confidence between 0 and 1",
            actual=(hits, trials, confidence),
            action="",
        )
    if not trials:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, shrink = hits / trials, 1 + z * z / trials
    middle = (rate + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    return low, 1.0 if hits == trials else min(1.0, middle + half)
