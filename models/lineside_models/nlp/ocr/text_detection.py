"""Where lines of text stand in an image: the network's map of text to quadrilaterals.

The post-processing is that of DB (Liao et al., "Real-time Scene Text Detection with Differentiable Binarization",
https://arxiv.org/abs/1911.08947, section 3.5) with PP-OCR's constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

SIDE_MAX_PX = 1600
"""Long side of the network's input. A page at 200 dpi is reduced to 0.7 times its size, text of 7 points to 14 px."""

_BAND_PX = 200_000
"""Pixels of the network's input that count for one call: with the margins what the process's arena holds at once."""

_MARGIN = 32
"""Rows above and below a band that the network sees, too: as high as two lines of small text. On five scans it found
the same lines as in one piece, like bands of 500,000 pixels and 64 rows, in the same time and with 48 MB less."""

_STRIDE = 32
_TEXT_FROM = 0.3
_SCORE_MIN = 0.5
_UNCLIP = 1.6
"""The network marks the core of a line: how far its rectangle is grown, in units of area / perimeter."""

_SIDE_MIN = 3
_LINES_MAX = 3000
"""Of one page: a full page of a telephone book has about 1,000."""

Quads = npt.NDArray[np.float32]


def detect_lines(image: npt.NDArray[np.uint8], network: Callable[[Any], Any]) -> tuple[Quads, npt.NDArray[np.float32]]:
    """Finds lines of text.

    Args:
        image: ``(H, W) uint8`` grey.
        network: Takes ``(1, 3, h, w) float32``, gives the probability of text as ``(1, 1, h, w)``.

    Returns:
        Corners ``(N, 4, 2)`` in pixels of the image, clockwise from the corner where the text begins if it stands
        upright, and the scores ``(N,)``. At most 3,000, those of the largest area.
    """
    height, width = image.shape
    scale = min(1.0, SIDE_MAX_PX / max(height, width))
    size = tuple(max(_STRIDE, round(side * scale / _STRIDE) * _STRIDE) for side in (width, height))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    quads, scores = _quads(_text_map(np.asarray(resized, np.uint8), network))
    return quads * np.array([width / size[0], height / size[1]], np.float32), scores


def _text_map(image: npt.NDArray[np.uint8], network: Callable[[Any], Any]) -> npt.NDArray[np.float32]:
    """Returns the probability of text ``(h, w)``, band by band: the network needs 180 bytes a pixel at once."""
    height, width = image.shape
    count = math.ceil(height * width / _BAND_PX)
    step = math.ceil(height / count / _STRIDE) * _STRIDE
    tall = min(height, step + 2 * _MARGIN)
    bands = []
    for top in range(0, height, step):
        first = min(max(0, top - _MARGIN), height - tall)
        grey = image[first : first + tall].astype(np.float32) / 127.5 - 1
        text = network(np.ascontiguousarray(np.broadcast_to(grey, (1, 3, *grey.shape))))[0, 0]
        bands.append(text[top - first : min(top + step, height) - first])
    return np.concatenate(bands)


def _quads(text: npt.NDArray[np.float32]) -> tuple[Quads, npt.NDArray[np.float32]]:
    mask = cv2.dilate((text > _TEXT_FROM).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if len(contours) > _LINES_MAX:
        contours = sorted(contours, key=cv2.contourArea, reverse=True)[:_LINES_MAX]
    quads, scores = [], []
    for contour in contours:
        centre, (wide, high), angle = cv2.minAreaRect(contour)
        if min(wide, high) < _SIDE_MIN or (score := _score(text, contour)) < _SCORE_MIN:
            continue
        grown = 2 * wide * high * _UNCLIP / (2 * (wide + high))
        quads.append(_ordered(cv2.boxPoints((centre, (wide + grown, high + grown), angle))))
        scores.append(score)
    return np.array(quads, np.float32).reshape(-1, 4, 2), np.array(scores, np.float32)


def _score(text: npt.NDArray[np.float32], contour: Any) -> float:
    """Returns the mean probability of text inside a contour."""
    x, y, wide, high = cv2.boundingRect(contour)
    inside = np.zeros((high, wide), np.uint8)
    cv2.fillPoly(inside, [contour - (x, y)], 1)
    return float(cv2.mean(text[y : y + high, x : x + wide], inside)[0])


def _ordered(corners: Any) -> Any:
    """Returns four corners clockwise from the upper left one."""
    corners = np.asarray(corners, np.float32)
    centre = corners.mean(axis=0)
    angles = np.arctan2(corners[:, 1] - centre[1], corners[:, 0] - centre[0])
    clockwise = corners[np.argsort(angles)]
    return np.roll(clockwise, -int(np.argmin(clockwise.sum(axis=1))), axis=0)


def sides(quads: Quads) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns the lengths ``(N,)`` of the upper and of the left side."""
    return (
        np.linalg.norm(quads[:, 1] - quads[:, 0], axis=1),
        np.linalg.norm(quads[:, 3] - quads[:, 0], axis=1),
    )


def skew_deg(quads: Quads) -> float:
    """Returns by how many degrees lines of text fall to the right, as the median of the longer half of them."""
    wide, high = sides(quads)
    long = (wide > 3 * high) & (wide >= np.median(wide))
    if long.sum() < 3:
        return 0.0
    along = quads[long, 1] - quads[long, 0]
    return math.degrees(float(np.median(np.arctan2(along[:, 1], along[:, 0]))))
