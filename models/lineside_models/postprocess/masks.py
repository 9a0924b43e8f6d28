"""From masks to outlines: what a candidate of a segmentation head covers, as a polygon in the frame."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.postprocess.candidates import Candidates, Floats
from lineside_models.preprocess import Letterbox
from lineside_runtime.errors import BadInputFormatError

_EMPTY = np.empty((0, 2), np.float32)


def with_outlines(
    found: Candidates, coefficients: npt.NDArray[Any], prototypes: npt.NDArray[Any], letterbox: Letterbox
) -> Candidates:
    """Adds the outlines of masks that are sums of prototypes (Bolya et al. 2019, arXiv:1904.02689), cut to their boxes.

    Args:
        found: N candidates.
        coefficients: ``(N, M)``.
        prototypes: ``(M, h, w)``, spread over the whole input.
        letterbox: Of the frame.

    Raises:
        BadInputFormatError: There are not as many coefficients as prototypes.
    """
    if coefficients.shape[1] != len(prototypes):
        raise BadInputFormatError("mask coefficients", expected=len(prototypes), actual=coefficients.shape[1])
    height, width = prototypes.shape[1:]
    flat = prototypes.reshape(len(prototypes), -1).astype(np.float32)
    masks = (coefficients.astype(np.float32) @ flat).reshape(-1, height, width) > 0  # sigmoid above a half
    step = cell_size((height, width), letterbox)
    outlines = tuple(_inside(mask, box, step, letterbox) for mask, box in zip(masks, found.boxes, strict=True))
    return dataclasses.replace(found, outlines=outlines)


def cell_size(shape: tuple[int, int], letterbox: Letterbox) -> Floats:
    """Returns ``(2,)``, how many pixels of the frame one cell of a mask over the whole input is wide and high."""
    height, width = letterbox.canvas
    return np.array(
        [width / shape[1] / letterbox.scale_x, height / shape[0] / letterbox.scale_y],
        np.float32,
    )


def outline(mask: npt.NDArray[np.bool_], step: Floats, letterbox: Letterbox) -> Floats:
    """Returns the outline ``(K, 2)`` of the largest piece of a mask in pixels of the frame; K is 0 if it's empty.

    The polygon runs through the middles of the outermost cells.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return _EMPTY
    largest = max(contours, key=cv2.contourArea).reshape(-1, 2)
    edges = np.array([letterbox.width, letterbox.height], np.float32)
    return np.asarray(np.clip((largest + 0.5) * step, 0, edges), np.float32)


def _inside(mask: npt.NDArray[np.bool_], box: Floats, step: Floats, letterbox: Letterbox) -> Floats:
    left, top = np.floor(box[:2] / step).astype(int)
    right, bottom = np.ceil(box[2:] / step).astype(int)
    cut = np.zeros_like(mask)
    cut[top:bottom, left:right] = mask[top:bottom, left:right]
    return outline(cut, step, letterbox)
