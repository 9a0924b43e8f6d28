"""Pixel confusion and IoU of segmenters."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from lineside_models.postprocess import Candidates
from lineside_runtime.errors import DatasetError

Pixels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationAnswer(Candidates):
    """A segmenter's answer to a frame with a mask: its regions, and its pixels compared with the mask.

    Attributes:
        table: ``(classes, classes)``, pixels by true and by said class; 0 is nothing, k + 1 the k-th label.
    """

    table: Pixels


def count_pixels(mask: Mask, predicted: Mask, classes: int, *, where: str) -> Pixels:
    """Returns the pixels of a frame by ``(true, found)`` class.

    Args:
        said: ``(H, W)``, the class that it is taken for.
        where: The frame, for the error.

    Raises:
        DatasetError: The mask is of another size than the frame.
    """
    if mask.shape != predicted.shape:
        raise DatasetError(f"the mask of {where}", expected=f"{predicted.shape} pixels", actual=mask.shape)
    pairs = mask.astype(np.int64) * classes + predicted
    return np.bincount(pairs.reshape(-1), minlength=classes * classes).reshape(classes, classes)


def overlaps(tables: Pixels) -> tuple[Pixels, Pixels]:
    """Returns shared and joint pixels ``(frames, labels)`` of ``(frames, classes, classes)``, without class 0."""
    shared = np.diagonal(tables, axis1=1, axis2=2)
    union = tables.sum(axis=2) + tables.sum(axis=1) - shared
    return shared[:, 1:], union[:, 1:]


def shown_labels(tables: Pixels) -> npt.NDArray[np.int64]:
    """Returns the labels that any of the masks shows."""
    return np.flatnonzero(tables.sum(axis=2)[:, 1:].any(axis=0))


def iou_by_label(table: Pixels) -> list[float | None]:
    """Returns the IoU of each label.

    Args:
        table: ``(classes, classes)``, pixels by true and by said class, such as the sum over frames.

    Returns:
        One value a label; ``None`` where no pixel shows it.
    """
    shared, union = (counts[0] for counts in overlaps(table[None]))
    shown = set(shown_labels(table[None]).tolist())
    return [float(shared[n] / union[n]) if n in shown else None for n in range(len(union))]


def mean_iou(tables: Pixels) -> float:
    """Returns the mean of `iou_by_label` over the labels that the masks show, all frames together; 0 without any."""
    found = [value for value in iou_by_label(tables.sum(axis=0)) if value is not None]
    return float(np.mean(found)) if found else 0.0
