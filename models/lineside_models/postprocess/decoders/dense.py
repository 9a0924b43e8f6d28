"""``fcos`` and ``retinanet``: dense heads whose levels are joined, as torchvision exports them.

Scores ``(B, N, C)`` and boxes ``(B, N, 4)``, for FCOS with a centerness ``(B, N, 1)``; the N rows are the levels one
after the other, in each the rows of cells, in each cell its anchors. The graph holds backbone and head only.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lineside_models.postprocess.boxes import best_in_input, decode_deltas, joined
from lineside_models.postprocess.candidates import (
    Candidates,
    Floats,
    HeadParams,
    Outputs,
    check_shape,
    read,
    sigmoid,
)
from lineside_models.postprocess.grids import KEPT, count_cells, even_steps, fixed, grid
from lineside_models.preprocess import Letterbox


class DenseParams(HeadParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of both, beside those of all heads.

    Attributes:
        strides: Of the levels, in the order in which they are joined.
        scores: Name of the output of class logits; ``None`` where the shapes tell.
        boxes: Name of the output of boxes; ``None`` where the shapes tell.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    scores: str | None = None
    boxes: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strides or min(self.strides) < 1:
            raise ValueError("strides must be positive")


class FcosParams(DenseParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``fcos`` (Tian et al. 2019, arXiv:1904.01355).

    Attributes:
        centerness: Name of the output of centerness logits; ``None`` where the shapes tell or there is none.
        offset: Where in its cell a point lies: 0 is the upper left corner (torchvision), 0.5 the middle (the paper).
        in_strides: Whether distances are in strides (torchvision) or in pixels.
        even: Whether cells divide the input evenly (torchvision) or are as wide as the stride (the paper); that
            differs where a side is no multiple of the stride.
    """

    centerness: str | None = None
    offset: float = 0.0
    in_strides: bool = True
    even: bool = True


class RetinaNetParams(DenseParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``retinanet`` (Lin et al. 2017, arXiv:1708.02002); the defaults are torchvision's.

    Attributes:
        sizes: Sides of a cell's square anchors at each level, in pixels; empty: 4, 5.04 and 6.35 strides.
        aspect_ratios: Height over width of the anchors, each with every size.
    """

    sizes: tuple[tuple[float, ...], ...] = ()
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sizes and len(self.sizes) != len(self.strides):
            raise ValueError("sizes must have one entry a stride")


def fcos(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Decodes distances to the four sides; the score is the geometric mean of class and centerness."""
    checked = read(params, FcosParams)
    logits, sides, centre = joined(
        outputs, len(letterboxes), scores=checked.scores, boxes=checked.boxes, centerness=checked.centerness
    )
    found = []
    for index, letterbox in enumerate(letterboxes):
        cells, strides = grid(letterbox.canvas, checked.strides)
        steps = even_steps(letterbox.canvas, checked.strides) if checked.even else strides
        check_shape(logits[index], (len(cells), None), f"the cells of strides {checked.strides}")
        scores = sigmoid(logits[index])
        if centre is not None:
            scores = np.sqrt(scores * sigmoid(centre[index]))
        distances = sides[index].astype(np.float32) * (strides if checked.in_strides else np.float32(1))
        points = (cells + np.float32(checked.offset)) * steps
        boxes = np.concatenate([points - distances[:, :2], points + distances[:, 2:]], axis=1)
        found.append(best_in_input(boxes, scores, checked, letterbox))
    return found


def retinanet(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Decodes shifts of anchors."""
    checked = read(params, RetinaNetParams)
    logits, deltas, _ = joined(outputs, len(letterboxes), scores=checked.scores, boxes=checked.boxes)
    found = []
    for index, letterbox in enumerate(letterboxes):
        anchors = retinanet_anchors(letterbox.canvas, checked)
        check_shape(logits[index], (len(anchors), None), "the anchors of all levels")
        boxes = decode_deltas(deltas[index], anchors, (1.0, 1.0, 1.0, 1.0))
        found.append(best_in_input(boxes, sigmoid(logits[index]), checked, letterbox))
    return found


@functools.lru_cache(maxsize=KEPT)
def retinanet_anchors(canvas: tuple[int, int], params: RetinaNetParams) -> Floats:
    """Returns the anchors ``(N, 4)`` as ``x1, y1, x2, y2``, as torchvision's ``AnchorGenerator`` does.

    There a level's step is the input's side over the grid's, without the remainder.
    """
    sizes = params.sizes or tuple(
        tuple(float(int(4 * stride * 2 ** (third / 3))) for third in range(3)) for stride in params.strides
    )
    cells, _ = grid(canvas, params.strides)
    corners = cells * even_steps(canvas, params.strides)
    counts = [count_cells(canvas, (stride,)) for stride in params.strides]
    levels = []
    for sides, shifts in zip(sizes, np.split(corners, np.cumsum(counts)[:-1]), strict=True):
        tall, across = np.sqrt(np.array(params.aspect_ratios, np.float32)), np.array(sides, np.float32)
        height, width = np.outer(tall, across).ravel(), np.outer(1 / tall, across).ravel()
        base = np.round(np.stack([-width, -height, width, height], axis=1) / 2)
        levels.append((np.tile(shifts, 2)[:, None, :] + base).reshape(-1, 4))
    return fixed(np.concatenate(levels).astype(np.float32))
