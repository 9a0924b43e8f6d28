"""Whether a frame can show a part at all: a dead lamp or a covered lens makes frames without any defect."""

from __future__ import annotations

import cv2
import numpy as np

from lineside_models.frame import UInt8Array

ROWS = 128
"""About so many rows of a frame are read."""
GRID = 16
MIN_CONTRAST = 0.5
"""In grey levels. Frames without light reach 0.4 at a high gain, as the grid averages the noise; the evenest of 4,500
photographs of parts has 1.2, apart from a blank template of DeepPCB."""
NOISE_MOST = 16.0
"""Standard deviation of the pixels that no noise alone reaches, in grey levels."""


def frame_problem(image: UInt8Array, *, min_contrast: float, brightness: tuple[float, float] | None) -> str:
    """Returns why a frame can't show a part; empty if it can.

    Args:
        image: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8``.
        min_contrast: Least standard deviation of the mean values of a grid of 16 x 16 cells, of the channel with most,
            in grey levels; 0 for no limit.
        brightness: Least and greatest mean value of all channels, 0 to 255; ``None`` for no limit.
    """
    if not min_contrast and brightness is None:
        return ""
    rows = image[:: max(1, len(image) // ROWS)]
    means, deviations = cv2.meanStdDev(rows)
    mean = float(means.mean())
    if brightness is not None and not brightness[0] <= mean <= brightness[1]:
        found, limits = "dark" if mean < brightness[0] else "bright", f"{brightness[0]:g} to {brightness[1]:g}"
        return f"the frame is too {found}: mean grey value {mean:.0f}, expected {limits}; look at light and exposure"
    if min_contrast <= MIN_CONTRAST and float(deviations.max()) >= NOISE_MOST:
        return ""  # which spares most frames the grid
    cells = cv2.resize(rows.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA).reshape(GRID * GRID, -1)
    contrast = float(cells.std(axis=0).max())
    if contrast < min_contrast:
        values = f"contrast {contrast:.2f} grey levels, expected {min_contrast:g} or more"
        return f"the frame shows nothing: {values}; look at light and lens"
    return ""
