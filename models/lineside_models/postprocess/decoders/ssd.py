"""``ssd``: class scores and shifts of default boxes (Liu et al. 2016, arXiv:1512.02325), as torchvision's head does.

Scores ``(B, N, 1 + C)`` with the background in column 0, boxes ``(B, N, 4)``. The graph holds backbone and head only;
exports that end with their own suppression are ``detections``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lineside_models.postprocess.boxes import best_in_input, decode_deltas, joined
from lineside_models.postprocess.candidates import Candidates, Floats, HeadParams, Outputs, check_shape, read, softmax
from lineside_models.postprocess.grids import KEPT, fixed
from lineside_models.preprocess import Letterbox


class SsdParams(HeadParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``ssd``, beside those of all heads.

    Attributes:
        grids: Side of each square feature map, in the order in which they are joined.
        aspect_ratios: Of each map's default boxes, beside 1; each stands for its inverse too.
        scales: Side of each map's smaller square box as a share of the input, and one more for the last map.
        steps: Pixels of the input between neighbouring boxes of each map; empty: the input's side over the map's.
        clip: Whether sizes are cut at the input's.
        weights: The box coder's.
        softmax: Whether the output is logits.
        scores: Name of the output of class scores; ``None`` where the shapes tell.
        boxes: Name of the output of boxes; ``None`` where the shapes tell.
    """

    grids: tuple[int, ...]
    aspect_ratios: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    steps: tuple[int, ...] = ()
    clip: bool = True
    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    softmax: bool = True
    scores: str | None = None
    boxes: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        maps = len(self.grids)
        entries = len(self.aspect_ratios), len(self.scales) - 1, len(self.steps) or maps
        if not maps or set(entries) != {maps}:
            raise ValueError("aspect_ratios and steps have one entry a grid, scales one more")


SSD300_VGG16: dict[str, Any] = {
    "grids": [38, 19, 10, 5, 3, 1],
    "aspect_ratios": [[2.0], [2.0, 3.0], [2.0, 3.0], [2.0, 3.0], [2.0], [2.0]],
    "scales": [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
    "steps": [8, 16, 32, 64, 100, 300],
}
"""Parameters of torchvision's ``ssd300_vgg16``, input 300 x 300, 8732 boxes."""

SSDLITE320: dict[str, Any] = {
    "grids": [20, 10, 5, 3, 2, 1],
    "aspect_ratios": [[2.0, 3.0]] * 6,
    "scales": [0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0],
}
"""Parameters of torchvision's ``ssdlite320_mobilenet_v3_large``, input 320 x 320, 3234 boxes."""


def ssd(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Decodes shifts of default boxes; a cell's background is no candidate."""
    checked = read(params, SsdParams)
    logits, deltas, _ = joined(outputs, len(letterboxes), scores=checked.scores, boxes=checked.boxes)
    found = []
    for index, letterbox in enumerate(letterboxes):
        anchors = default_boxes(letterbox.canvas, checked)
        check_shape(logits[index], (len(anchors), None), "the default boxes of all maps")
        scores = softmax(logits[index], axis=1) if checked.softmax else logits[index]
        boxes = decode_deltas(deltas[index], anchors, checked.weights)
        found.append(best_in_input(boxes, scores[:, 1:], checked, letterbox))
    return found


@functools.lru_cache(maxsize=KEPT)
def default_boxes(canvas: tuple[int, int], params: SsdParams) -> Floats:
    """Returns the default boxes ``(N, 4)`` as ``x1, y1, x2, y2`` in pixels of the input.

    Order and rounding are those of torchvision's ``DefaultBoxGenerator``.
    """
    height, width = canvas
    levels = []
    for number, side in enumerate(params.grids):
        small, next_small = params.scales[number], params.scales[number + 1]
        sizes = [(small, small), (np.sqrt(small * next_small),) * 2]
        for ratio in params.aspect_ratios[number]:
            root = np.sqrt(ratio)
            sizes += [(small * root, small / root), (small / root, small * root)]
        half = np.array(sizes, np.float32) / 2
        if params.clip:
            half = np.clip(half, 0, 0.5)
        per_x, per_y = (width / params.steps[number], height / params.steps[number]) if params.steps else (side, side)
        row, column = np.divmod(np.arange(side * side), side)
        centre = np.stack([(column + 0.5) / per_x, (row + 0.5) / per_y], axis=1)[:, None, :]
        levels.append(np.concatenate([centre - half, centre + half], axis=2).reshape(-1, 4))
    shares = np.concatenate(levels)
    return fixed(np.asarray(shares * np.array([width, height] * 2), np.float32))
