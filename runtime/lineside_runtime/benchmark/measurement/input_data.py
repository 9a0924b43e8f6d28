"""Inputs of the measured model: noise, or the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lineside_runtime.bundle import Manifest, sample_inputs
from lineside_runtime.errors import BadInputFormatError
from lineside_runtime.tensors import DYNAMIC, Array, TensorSpec

SEED = 7
NOISE = f"noise: grey values 0 to 255 as the manifest normalises them (seed {SEED}), whole numbers are 0"


def noise(manifest: Manifest, batch: int, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Array]:
    """Returns inputs of one call with ``batch`` frames.

    Not zeros: some kernels are faster on them. The same numbers each time.

    Args:
        batch: Frames in the call.
        shapes: Of each input, instead of the one that a frame has.

    Raises:
        BadInputFormatError: The model's batch is fixed, and it is another one; or a shape is missing or doesn't fit.
    """
    if shapes is not None and set(shapes) != {spec.name for spec in manifest.inputs}:
        raise BadInputFormatError("shapes", expected=[spec.name for spec in manifest.inputs], actual=sorted(shapes))
    random = np.random.default_rng(SEED)
    mean, std = (float(np.mean(values)) for values in (manifest.preprocess.mean, manifest.preprocess.std))
    found: dict[str, Array] = {}
    for spec, zeros in zip(manifest.inputs, sample_inputs(manifest).values(), strict=True):
        main = spec.name == manifest.preprocess.input
        shape = _batched(spec, zeros.shape, batch, main=main) if shapes is None else shapes[spec.name]
        if shapes is not None:
            spec.check(np.broadcast_to(np.zeros((), spec.dtype), shape))  # takes no memory, however large
        if spec.dtype.startswith("float"):
            scale, shift = (255 / std, -mean / std) if main else (1.0, 0.0)
            found[spec.name] = (random.random(shape, np.float32) * scale + shift).astype(spec.dtype)
        elif main:
            found[spec.name] = random.integers(0, 128, shape).astype(spec.dtype)  # 127: an int8's largest
        else:
            found[spec.name] = np.zeros(shape, spec.dtype)
    return found


def read_inputs(path: Path) -> dict[str, Array]:
    """Reads inputs that the caller of the benchmark gave, from an ``.npz``."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _batched(spec: TensorSpec, shape: tuple[int, ...], batch: int, *, main: bool) -> tuple[int, ...]:
    """Returns the shape with its first dimension set, where that is the batch: it is free, named so, or the frames'."""
    named = spec.layout.startswith("N") or (main and batch > 1)
    if not shape or not (named or spec.shape[0] == DYNAMIC):
        return shape
    if spec.shape[0] not in (DYNAMIC, batch):
        raise BadInputFormatError(
            f"input {spec.name!r} has a fixed first dimension",
            expected=f"a batch of {spec.shape[0]}",
            actual=batch,
            action=f"Measure with batch {spec.shape[0]}, or export the model with a free batch.",
        )
    return (batch, *shape[1:])
