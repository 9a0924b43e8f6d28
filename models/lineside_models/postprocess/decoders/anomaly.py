"""``anomaly_maps``: maps of distances from good parts, at one or more scales.

A map's values are in standard deviations of good frames. The frame's score comes from the sum over the scales of their
greatest values (the mean of ``peak_cells`` of them), wherever these lie; where the defect is, from the sum of the maps.
A model that learned marked defects of named types also says which of them a region looks like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.postprocess.candidates import (
    Candidates,
    Floats,
    HeadParams,
    Outputs,
    check_finite,
    check_shape,
    only,
    read,
    sigmoid,
)
from lineside_models.postprocess.masks import cell_size, outline
from lineside_models.preprocess import Letterbox

NAMED_FROM = 2.0
"""Standard deviations above the usual greatest value of good frames, from which a marked defect's type is named."""


class AnomalyParams(HeadParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``anomaly_maps``, beside those of all heads; ``calibration`` has one pair, for the sum.

    Attributes:
        maps: Names of the outputs, the finest first.
        region_score: Cells whose own score reaches this belong to a region. Where none does, the region is what rises
            above the middle between the frame's median cell and its peak, so that there always is one.
        peak_cells: Number of greatest cells of a map whose mean is its peak.
        types: Output ``(B, h, w, K)`` with the value of each type at each cell of the finest map. A region is the type
            with the greatest sum, label k + 1, if the last map, of marked defects, reaches `NAMED_FROM` there; else
            label 0. ``None`` without types.
    """

    maps: tuple[str, ...]
    region_score: float = 0.5
    peak_cells: int = 1
    types: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.maps or len(self.calibration) != 1 or not 0 < self.region_score < 1 or self.peak_cells < 1:
            raise ValueError(
                "maps must be named, calibration be one pair, region_score lie between 0 and 1, peak_cells be 1 or more"
            )


def anomaly_maps(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Decodes each anomalous region with box, outline and score; the strongest has the frame's score.

    There is always one, so that a frame that is good says how nearly it wasn't.
    """
    checked = read(params, AnomalyParams)
    maps = _maps(outputs, checked, len(letterboxes))
    types = _types(outputs, checked, maps[0].shape)
    return [
        _frame([one[number] for one in maps], None if types is None else types[number], checked, box)
        for number, box in enumerate(letterboxes)
    ]


def heat_map(outputs: Outputs, params: Mapping[str, Any], letterbox: Letterbox) -> Floats:
    """Returns each pixel's own score for one frame, ``(H, W) float32`` from 0 to 1 in the frame's pixels.

    Args:
        outputs: Of a batch of one.
        params: The manifest's parameters of ``anomaly_maps``.

    Raises:
        ConfigError: A parameter is unknown or out of range.
        BadInputFormatError: An output is missing, has another shape or holds NaN or infinity.
    """
    check_finite(outputs)
    checked = read(params, AnomalyParams)
    summed = _summed([one[0] for one in _maps(outputs, checked, 1)])
    height, width = letterbox.canvas
    spread = cv2.resize(summed, (width, height), interpolation=cv2.INTER_LINEAR)
    shown = spread[: round(letterbox.height * letterbox.scale_y), : round(letterbox.width * letterbox.scale_x)]
    placed = cv2.resize(shown, (letterbox.width, letterbox.height), interpolation=cv2.INTER_LINEAR)
    return _scores(np.asarray(placed, np.float32), checked)


def peak_of(values: npt.NDArray[np.floating[Any]], cells: int) -> float:
    """Returns the mean of the greatest cells of one map."""
    flat = np.asarray(values).ravel()
    return float(np.partition(flat, -cells)[-cells:].mean()) if cells < flat.size else float(flat.mean())


def _maps(outputs: Outputs, params: AnomalyParams, frames: int) -> list[Floats]:
    """Returns ``(B, h, w)`` a scale."""
    found = []
    for name in params.maps:
        values = only(outputs, name, "a map of distances")
        check_shape(values, (frames, 1, None, None), "a map of distances")
        found.append(np.asarray(values[:, 0], np.float32))
    return found


def _types(outputs: Outputs, params: AnomalyParams, shape: tuple[int, ...]) -> Floats | None:
    """Returns ``(B, h, w, K)``."""
    if params.types is None:
        return None
    values = only(outputs, params.types, "the values of types")
    check_shape(values, (*shape, None), "the values of types")
    return np.asarray(values, np.float32)


def _summed(maps: Sequence[Floats]) -> Floats:
    height, width = maps[0].shape
    return np.asarray(sum(cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in maps), np.float32)


def _scores(sums: npt.NDArray[Any], params: AnomalyParams) -> Floats:
    slope, shift = params.calibration[0]
    return sigmoid(slope * sums + shift).astype(np.float32)


def _frame(maps: Sequence[Floats], types: Floats | None, params: AnomalyParams, letterbox: Letterbox) -> Candidates:
    whole = _scores(np.array(sum(peak_of(one, params.peak_cells) for one in maps)), params)
    summed = _summed(maps)
    peak = np.unravel_index(int(summed.argmax()), summed.shape)
    middle = (float(np.median(summed)) + float(summed[peak])) / 2
    members = summed >= min(_level(params), middle)
    pieces = _pieces(members, _scores(summed, params), letterbox)
    here = next(number for number, (_, _, piece) in enumerate(pieces) if piece[peak])
    scores = np.array([each[0] for each in pieces], np.float32)
    scores[here] = max(whole, scores.max())
    order = np.argsort(-scores, kind="stable")
    kept = [int(place) for place in order if place == here or scores[place] >= params.score_min]
    kept = kept[: params.max_detections]
    corner, step = (0, 0), cell_size((summed.shape[0], summed.shape[1]), letterbox)
    return Candidates(
        boxes=np.array([pieces[place][1] for place in kept], np.float32).reshape(-1, 4),
        scores=scores[kept],
        labels=np.array([_label(maps, types, pieces[place][2]) for place in kept], np.int64),
        outlines=tuple(outline(pieces[place][2], corner, step, letterbox) for place in kept),
    )


def _label(maps: Sequence[Floats], types: Floats | None, piece: npt.NDArray[np.bool_]) -> int:
    """Returns the label of a region: a type if the map of marked defects is high there, else 0."""
    if types is None or maps[-1][piece].max() < NAMED_FROM:
        return 0
    return 1 + int(types[piece].sum(axis=0).argmax())


def _level(params: AnomalyParams) -> float:
    """Returns the sum at which a cell's score is ``region_score``."""
    slope, shift = params.calibration[0]
    return float((np.log(params.region_score / (1 - params.region_score)) - shift) / slope)


def _pieces(
    members: npt.NDArray[np.bool_], scores: Floats, letterbox: Letterbox
) -> list[tuple[float, Floats, npt.NDArray[np.bool_]]]:
    """Returns the greatest score, the box in the frame, and the cells of each connected piece."""
    count, marks, facts, _ = cv2.connectedComponentsWithStats(members.astype(np.uint8), connectivity=8)
    step = np.tile(cell_size((members.shape[0], members.shape[1]), letterbox), 2)
    edges = np.array([letterbox.width, letterbox.height] * 2, np.float32)
    found = []
    for mark in range(1, count):
        left, top, width, height, _ = (int(value) for value in facts[mark])
        piece = marks == mark
        corners = np.array([left, top, left + width, top + height], np.float32) * step
        found.append((float(scores[piece].max()), np.asarray(np.clip(corners, 0, edges), np.float32), piece))
    return found
