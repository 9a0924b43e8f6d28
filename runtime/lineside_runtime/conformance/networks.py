"""The networks that an engine is tried with, and what they compute, in numpy.

They are so small that their files are part of the package (``models/``), and cover what goes wrong in engines:

- ``scale``: one multiplication of a matrix, any batch. An engine that runs nothing else can still be tried.
- ``fixed``: the same for one row only, since engines prepare what never changes its shape.
- ``pair``: two inputs that must not be swapped, two outputs that must not be swapped either.
- ``conv``: an image through two convolutions: enough work for threads and a profile.
- ``conv_int8``: the same in eight bits, so that the right answer is the float one, roughly.

A vendor's compiler takes ``models/conv.onnx`` and makes a file of its own format, which is tried with
``--model conv=FILE``; the answers are the same whatever the format.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from lineside_runtime.precision import Precision
from lineside_runtime.tensors import DYNAMIC, Array, TensorSpec

Floats = npt.NDArray[np.float32]

SIDE = 64
CHANNELS = 16
FACTOR = 3.0

TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 1e-2, "int8": 0.08}
"""Largest error of an output element, as a share of the output's largest magnitude. A GPU's TF32 has 10 bits of
mantissa, hence 1e-3 for fp32; the INT8 files that are here err by 0.03 on every CPU engine that was measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConformanceNetwork:
    """One network.

    Attributes:
        name: Also the stem of its files.
        precision: What it is loaded with.
        inputs: Its inputs; the batch comes first and is free where the format lets it be.
        compute: Inputs to outputs by name, exactly.
    """

    name: str
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    compute: Callable[[Mapping[str, Array]], dict[str, Array]]

    def sample(self, seed: int, *, batch: int = 1) -> dict[str, Array]:
        """Returns inputs between 0 and 1, the same ones for the same seed and others for another."""
        generator = np.random.default_rng(seed)
        return {
            spec.name: generator.random((batch, *spec.shape[1:]), dtype=np.float32).astype(spec.dtype)
            for spec in self.inputs
        }


def weights(shape: tuple[int, ...], phase: float) -> Floats:
    """Returns pseudo-random numbers, ``shape`` float32, by a formula, so that no generator's version matters."""
    values: npt.NDArray[np.float64] = np.sin(np.arange(math.prod(shape), dtype=np.float64) * 12.9898 + phase)
    return (values.reshape(shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)


FIRST_WEIGHT = weights((CHANNELS, 1, 3, 3), 1.0)
FIRST_BIAS = weights((CHANNELS,), 2.0) * np.float32(0.1)
SECOND_WEIGHT = weights((CHANNELS, CHANNELS, 3, 3), 3.0)
SECOND_BIAS = weights((CHANNELS,), 4.0) * np.float32(0.1)


def convolve(image: Array, weight: Floats, bias: Floats) -> Floats:
    """Returns the 3×3 convolution with a border of zeros and ReLU; (N, C, H, W) float32.

    By einsum, because numpy's matrix products start threads that spin on and would be taken for the engine's.
    """
    height, width = image.shape[2:]
    padded = np.pad(np.asarray(image, np.float32), ((0, 0), (0, 0), (1, 1), (1, 1)))
    summed: Floats = np.zeros((len(image), len(weight), height, width), np.float32)
    for dy in range(3):
        for dx in range(3):
            shifted = padded[:, :, dy : dy + height, dx : dx + width]
            summed += np.einsum("nchw,oc->nohw", shifted, weight[:, :, dy, dx])
    activated: Floats = np.maximum(summed + bias[:, None, None], np.float32(0))
    return activated


def _scale(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"y": np.asarray(inputs["x"], np.float32) * np.float32(FACTOR)}


def _pair(inputs: Mapping[str, Array]) -> dict[str, Array]:
    a, b = np.asarray(inputs["a"], np.float32), np.asarray(inputs["b"], np.float32)
    return {"sum": a + b, "difference": a - b}


def _conv(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"map": convolve(convolve(inputs["image"], FIRST_WEIGHT, FIRST_BIAS), SECOND_WEIGHT, SECOND_BIAS)}


def _row(name: str, rows: int = DYNAMIC) -> TensorSpec:
    return TensorSpec(name=name, shape=(rows, 4))


_IMAGE = TensorSpec(name="image", shape=(DYNAMIC, 1, SIDE, SIDE), layout="NCHW")
_MAP = TensorSpec(name="map", shape=(DYNAMIC, CHANNELS, SIDE, SIDE), layout="NCHW")

NETWORKS = (
    ConformanceNetwork("scale", "fp32", (_row("x"),), (_row("y"),), _scale),
    ConformanceNetwork("fixed", "fp32", (_row("x", 1),), (_row("y", 1),), _scale),
    ConformanceNetwork("pair", "fp32", (_row("a"), _row("b")), (_row("sum"), _row("difference")), _pair),
    ConformanceNetwork("conv", "fp32", (_IMAGE,), (_MAP,), _conv),
    ConformanceNetwork("conv_int8", "int8", (_IMAGE,), (_MAP,), _conv),
)
