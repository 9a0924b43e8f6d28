"""The scales of the suite's INT8 network, from the values that its samples give."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lineside_runtime.conformance.networks import (
    FIRST_BIAS,
    FIRST_WEIGHT,
    NETWORKS,
    SECOND_BIAS,
    SECOND_WEIGHT,
    Floats,
    convolve,
)


def _ranges() -> tuple[float, float]:
    conv = next(network for network in NETWORKS if network.name == "conv")
    first = convolve(conv.sample(0, batch=16)["image"], FIRST_WEIGHT, FIRST_BIAS)
    second = convolve(first, SECOND_WEIGHT, SECOND_BIAS)
    return float(f"{first.max():.3g}"), float(f"{second.max():.3g}")  # rounded, so that every processor gets the same


FIRST_MAX, SECOND_MAX = _ranges()
IMAGE_SCALE, FIRST_SCALE, SECOND_SCALE = 1 / 255, FIRST_MAX / 255, SECOND_MAX / 255


def quantized(weight: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Returns the weights as integers -127 to 127, and the scale of each output channel."""
    scales = (np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127).astype(np.float32)
    integers = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1)))
    return np.clip(integers, -127, 127).astype(np.int8), scales
