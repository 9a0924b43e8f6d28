"""Composition of frame and reference: one image of three channels, which any network with such an input takes.

========  =====================================================================================
channel
========  =====================================================================================
0         the frame, grey, its brightness matched to the reference's
1         the reference, grey, laid over the frame
2         difference: how far channel 0 is outside of what good parts show at this pixel, 0 to 255
========  =====================================================================================

Without tolerances the difference is the absolute one of channels 0 and 1. Pixels that the reference does not cover are
those of the frame, with no difference.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.frame import UInt8Array
from lineside_models.preprocess import to_grey
from lineside_models.reference.registration import ReferenceTemplate, Registration
from lineside_runtime.errors import BadInputFormatError

_STEP = 4
"""Brightness is matched on every fourth pixel, averaged: edges that moved count less."""

_GAIN_RANGE = (0.5, 2.0)
_ROUNDS = 3
_KEEP = 2.5
"""Pixels further from the fit than so many median deviations are no brightness but a defect, and are left out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tolerance:
    """What good parts show at each pixel of the reference.

    Attributes:
        darkest: ``(H, W) uint8``.
        brightest: ``(H, W) uint8``, at least ``darkest``.

    Raises:
        BadInputFormatError: They have two shapes or are no grey images.
    """

    darkest: UInt8Array
    brightest: UInt8Array

    def __post_init__(self) -> None:
        if self.darkest.shape != self.brightest.shape or self.darkest.ndim != 2:
            raise BadInputFormatError(
                "darkest and brightest of a tolerance",
                expected="two grey images of one size",
                actual=(self.darkest.shape, self.brightest.shape),
                action="Learn the reference again.",
            )

    @classmethod
    def around(cls, darkest: UInt8Array, brightest: UInt8Array, edge_px: int) -> Tolerance:
        """Returns the tolerance of grey values whose edges may move by ``edge_px`` pixels."""
        kernel = np.ones((2 * edge_px + 1, 2 * edge_px + 1), np.uint8)
        return cls(
            np.asarray(cv2.erode(darkest, kernel), np.uint8), np.asarray(cv2.dilate(brightest, kernel), np.uint8)
        )


def compose(
    frame: UInt8Array,
    template: ReferenceTemplate,
    registration: Registration,
    tolerance: Tolerance | None = None,
) -> UInt8Array:
    """Composes a frame and its reference.

    Args:
        frame: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8`` grey.
        registration: Where it lies in the frame, from `ReferenceTemplate.register`.
        tolerance: What good parts show, in the reference's pixels; ``None`` for the reference alone.

    Returns:
        ``(H, W, 3) uint8``: frame, reference, difference; in the frame's pixels.

    Raises:
        BadInputFormatError: The frame is no image.
    """
    grey = to_grey(frame)
    covered = registration.covered(template.size)
    reference = registration.place(template.grey)
    grey = match_brightness(grey, reference, covered)
    if tolerance is None:
        difference = cv2.absdiff(grey, reference)
    else:
        darkest, brightest = registration.place(tolerance.darkest), registration.place(tolerance.brightest)
        difference = cv2.max(cv2.subtract(grey, brightest), cv2.subtract(darkest, grey))
    outside = ~covered
    reference[outside] = grey[outside]
    difference[outside] = 0
    return np.asarray(cv2.merge([grey, reference, difference]), np.uint8)


def match_brightness(grey: UInt8Array, reference: UInt8Array, covered: npt.NDArray[np.bool_]) -> UInt8Array:
    """Returns a grey image with the gain and offset that bring it nearest to the reference, defects left out.

    Args:
        grey: ``(H, W) uint8``.
        reference: ``(H, W) uint8``, laid over it.
        covered: ``(H, W)`` of the pixels that count.
    """
    height, width = grey.shape
    size = (max(1, width // _STEP), max(1, height // _STEP))
    counted = cv2.resize(covered.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    x, y = (
        cv2.resize(each, size, interpolation=cv2.INTER_AREA)[counted].astype(np.float64) for each in (grey, reference)
    )
    gain, offset = 1.0, 0.0
    for _ in range(_ROUNDS):
        if len(x) < 2 or x.std() < 1e-6:
            break
        gain = float(np.clip(np.cov(x, y, bias=True)[0, 1] / x.var(), *_GAIN_RANGE))
        offset = float(y.mean() - gain * x.mean())
        off = np.abs(gain * x + offset - y)
        near = off <= _KEEP * max(1.0, float(np.median(off)))
        x, y = x[near], y[near]
    table = np.clip(np.rint(gain * np.arange(256) + offset), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(grey, table), np.uint8)
