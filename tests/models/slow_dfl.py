"""``dfl_anchor_free`` as plainly as it can be written, cell by cell and pair by pair: what the fast one is held to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
Found = tuple[int, float, Box]


def decode(
    outputs: Mapping[str, npt.NDArray[Any]], params: Mapping[str, Any], width: float, height: float
) -> list[Found]:
    """Returns label, score and box of each candidate of the first frame, which lies in the input unscaled."""
    cells = []
    for level, stride in enumerate(params["strides"]):
        for place, value in np.ndenumerate(outputs[f"cls_{stride}"][0]):
            if value > np.float32(math.log(params["score_min"] / (1 - params["score_min"]))):
                cells.append((-float(value), level, *place))
    cells = sorted(cells)[:1000]
    boxes = [_box(outputs[f"box_{params['strides'][level]}"][0], params, level, y, x) for _, level, _, y, x in cells]
    kept: list[int] = []
    for number, (_, _, label, _, _) in enumerate(cells):
        mine = [other for other in kept if cells[other][2] == label]
        if all(iou(boxes[number], boxes[other]) <= params["nms_iou"] for other in mine):
            kept.append(number)
    found = []
    for number in kept:
        slope, shift = params["calibration"][cells[number][2]]
        voted = _voted(cells, boxes, number, params)
        x1, y1, x2, y2 = (max(0.0, voted[0]), max(0.0, voted[1]), min(width, voted[2]), min(height, voted[3]))
        if x2 > x1 and y2 > y1:
            found.append((cells[number][2], _sigmoid(slope * -cells[number][0] + shift), (x1, y1, x2, y2)))
    return sorted(found, key=lambda one: -one[1])[: params.get("max_detections", 100)]


def _box(sides: npt.NDArray[Any], params: Mapping[str, Any], level: int, y: int, x: int) -> Box:
    stride, bins = params["strides"][level], params["reg_bins"]
    distances = []
    for side in range(4):
        powers = [math.exp(float(sides[side * bins + step, y, x])) for step in range(bins)]
        distances.append(sum(step * power for step, power in enumerate(powers)) / sum(powers))
    left, top, right, bottom = distances
    x_centre, y_centre = x + 0.5, y + 0.5
    x1, y1, x2, y2 = x_centre - left, y_centre - top, x_centre + right, y_centre + bottom
    return x1 * stride, y1 * stride, x2 * stride, y2 * stride


def _voted(cells: Sequence[Any], boxes: Sequence[Box], number: int, params: Mapping[str, Any]) -> Box:
    sums, total = [0.0] * 4, 0.0
    if params["vote_iou"] == 1:
        return boxes[number]
    for other, box in enumerate(boxes):
        weight = _sigmoid(-cells[other][0])
        asked = cells[other][2] == cells[number][2] and weight > params.get("vote_from", 0)
        if asked and iou(boxes[number], box) >= params["vote_iou"]:
            total += weight
            sums = [old + weight * side for old, side in zip(sums, box, strict=True)]
    x1, y1, x2, y2 = sums
    return (x1 / total, y1 / total, x2 / total, y2 / total) if total else boxes[number]


def iou(one: Box, two: Box) -> float:
    """Returns intersection over union."""
    wide = max(0.0, min(one[2], two[2]) - max(one[0], two[0]))
    high = max(0.0, min(one[3], two[3]) - max(one[1], two[1]))
    whole = (one[2] - one[0]) * (one[3] - one[1]) + (two[2] - two[0]) * (two[3] - two[1]) - wide * high
    return wide * high / whole if whole > 0 else 0.0


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
