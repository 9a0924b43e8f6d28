"""Masks of segmentation heads to outlines: polygons in the frame."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.postprocess.candidates import Candidates, Floats
from lineside_models.preprocess import Letterbox
from lineside_runtime.errors import BadInputFormatError

OUTLINE_SIDE_MAX = 512
"""Masks are enlarged to the frame's pixels, but to no more than these on their long side: outlines are for people."""

_EMPTY = np.empty((0, 2), np.float32)


def with_outlines(
    found: Candidates, coefficients: npt.NDArray[Any], prototypes: npt.NDArray[Any], letterbox: Letterbox
) -> Candidates:
    """Adds the outlines of masks that are sums of prototypes (Bolya et al. 2019, arXiv:1904.02689), cut to their boxes.

    Args:
        coefficients: ``(N, M)``.
        prototypes: ``(M, h, w)``, spread over the whole input.

    Raises:
        BadInputFormatError: There are not as many coefficients as prototypes.
    """
    if coefficients.shape[1] != len(prototypes):
        raise BadInputFormatError("mask coefficients", expected=len(prototypes), actual=coefficients.shape[1])
    height, width = prototypes.shape[1:]
    flat = prototypes.reshape(len(prototypes), -1).astype(np.float32)
    logits = (coefficients.astype(np.float32) @ flat).reshape(-1, height, width)
    step = cell_size((height, width), letterbox)
    outlines = tuple(_inside(mask, box, step) for mask, box in zip(logits, found.boxes, strict=True))
    return dataclasses.replace(found, outlines=outlines)


def cell_size(shape: tuple[int, int], letterbox: Letterbox) -> Floats:
    """Returns ``(2,)``, how many pixels of the frame one cell of a mask over the whole input is wide and high."""
    height, width = letterbox.canvas
    return np.array(
        [width / shape[1] / letterbox.scale_x, height / shape[0] / letterbox.scale_y],
        np.float32,
    )


def outline(mask: npt.NDArray[np.bool_], corner: tuple[int, int], step: Floats, letterbox: Letterbox) -> Floats:
    """Returns the outline ``(K, 2)`` of the largest piece of a mask in pixels of the frame; K is 0 if it's empty.

    The polygon runs through the middles of the outermost cells.

    Args:
        mask: The part of a mask that is looked at.
        corner: Column and row of that part in the whole mask.
        step: See `cell_size`.
    """
    edges = np.array([letterbox.width, letterbox.height], np.float32)
    return np.asarray(np.clip((_contour(mask) + np.array(corner, np.float32) + 0.5) * step, 0, edges), np.float32)


def _contour(mask: npt.NDArray[np.bool_]) -> Floats:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return _EMPTY
    return np.asarray(max(contours, key=cv2.contourArea).reshape(-1, 2), np.float32)


def _inside(logits: Floats, box: Floats, step: Floats) -> Floats:
    """Returns the outline of a mask inside its box, enlarged to the frame's pixels before it is cut at zero.

    Cells are several pixels wide: an outline through them would be half a cell too narrow on each side.
    """
    low = np.maximum(np.floor(box[:2] / step).astype(int) - 1, 0)
    high = np.minimum(np.ceil(box[2:] / step).astype(int) + 1, logits.shape[::-1])
    cut = logits[low[1] : high[1], low[0] : high[0]]
    pixels = (high - low) * step
    size = np.maximum(np.round(pixels * min(1.0, OUTLINE_SIDE_MAX / pixels.max())), 1).astype(int)
    scale = pixels / size  # pixels of the frame for one of the enlarged mask
    mask = cv2.resize(cut, (int(size[0]), int(size[1])), interpolation=cv2.INTER_LINEAR) > 0
    corner = low * step
    x = corner[0] + (np.arange(size[0]) + 0.5) * scale[0]
    y = corner[1] + (np.arange(size[1]) + 0.5) * scale[1]
    mask &= ((y >= box[1]) & (y <= box[3]))[:, None] & ((x >= box[0]) & (x <= box[2]))[None, :]
    placed = corner + (_contour(mask) + 0.5) * scale
    return np.asarray(np.clip(placed, box[:2], box[2:]), np.float32)
