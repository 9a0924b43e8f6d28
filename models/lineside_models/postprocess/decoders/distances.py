"""``distances``: anchor-free heads whose boxes are distances from a point of each cell to the four sides.

- NanoDet-Plus: joined ``(B, N, C + 32)``, scores first; strides 8 to 64, ``reg_bins`` 8, ``offset`` 0.
- NanoDet, PicoDet: scores ``(B, n, C)`` and distributions ``(B, n, 32)`` of each level; ``offset`` 0.5.
- RTMDet: maps of logits ``(B, C, h, w)`` and distances ``(B, 4, h, w)`` of each level; ``offset`` 0.

A side's distance is the mean of a distribution over bins (Li et al. 2020, arXiv:2006.04388), or one number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lineside_models.postprocess.boxes import best_in_input
from lineside_models.postprocess.candidates import (
    Candidates,
    HeadParams,
    Outputs,
    check_shape,
    only,
    read,
    sigmoid,
    softmax,
)
from lineside_models.postprocess.grids import grid
from lineside_models.preprocess import Letterbox
from lineside_runtime.errors import BadInputFormatError

Array = npt.NDArray[Any]


class DistancesParams(HeadParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``distances``, beside those of all heads.

    Attributes:
        strides: Of the levels, in pixels of the input.
        reg_bins: Bins of the distribution of one side; 1 where the output is the distance itself.
        offset: Where in its cell a point lies: 0 is the upper left corner, 0.5 the middle.
        in_strides: Whether distances are in strides instead of pixels of the input.
        activation: ``none`` where the scores are probabilities already.
        scores: Names of the outputs of scores, in the order of the strides; empty where one output holds everything.
        boxes: Names of the outputs of distances, in the same order.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    reg_bins: int = 1
    offset: float = 0.0
    in_strides: bool = True
    activation: Literal["sigmoid", "none"] = "none"
    scores: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strides or min(self.strides) < 1 or self.reg_bins < 1:
            raise ValueError("strides must be positive, reg_bins 1 or more")
        if len(self.scores) != len(self.boxes):
            raise ValueError("scores and boxes name as many outputs")


def distances(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Decodes the cells above the floor."""
    checked = read(params, DistancesParams)
    scores, sides = _parts(outputs, checked, len(letterboxes))
    found = []
    for index, letterbox in enumerate(letterboxes):
        cells, strides = grid(letterbox.canvas, checked.strides)
        check_shape(scores[index], (len(cells), None), f"the cells of strides {checked.strides}")
        likely = scores[index] if checked.activation == "none" else sigmoid(scores[index])
        kept = np.flatnonzero(likely.max(axis=1) >= checked.score_min)
        far = _distances(sides[index][kept], checked.reg_bins) * (strides[kept] if checked.in_strides else 1)
        point = (cells[kept] + np.float32(checked.offset)) * strides[kept]
        boxes = np.concatenate([point - far[:, :2], point + far[:, 2:]], axis=1).astype(np.float32)
        found.append(best_in_input(boxes, likely[kept], checked, letterbox))
    return found


def _parts(outputs: Outputs, params: DistancesParams, frames: int) -> tuple[Array, Array]:
    """Returns scores ``(B, N, C)`` and sides ``(B, N, 4 * bins)`` of all levels, one after the other."""
    columns = 4 * params.reg_bins
    if not params.scores:
        rows = only(outputs, None, "scores and distances")
        check_shape(rows, (frames, None, None), "scores and distances")
        if rows.shape[2] <= columns:
            raise BadInputFormatError(
                "the output of scores and distances has too few columns",
                expected=f"more than {columns}",
                actual=rows.shape[2],
                action="Correct postprocess.params.reg_bins, or name another decoder.",
            )
        return rows[:, :, :-columns], rows[:, :, -columns:]
    scores = [_rows(only(outputs, name, "scores"), frames, "the scores") for name in params.scores]
    sides = [_rows(only(outputs, name, "distances"), frames, "the distances") for name in params.boxes]
    for score, side in zip(scores, sides, strict=True):
        check_shape(score, (frames, None, scores[0].shape[2]), "the scores")
        check_shape(side, (*score.shape[:2], columns), "the distances")
    return np.concatenate(scores, axis=1), np.concatenate(sides, axis=1)


def _rows(level: Array, frames: int, what: str) -> Array:
    """Returns a level as ``(B, n, columns)``, whether it is one already or a map ``(B, columns, h, w)``."""
    if level.ndim == 4:
        level = level.reshape(*level.shape[:2], -1).transpose(0, 2, 1)
    check_shape(level, (frames, None, None), what)
    return level


def _distances(sides: Array, bins: int) -> Array:
    if bins == 1:
        return sides.astype(np.float32)
    shares = softmax(sides.reshape(len(sides), 4, bins), axis=2)
    return np.asarray(shares @ np.arange(bins))
