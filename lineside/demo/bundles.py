"""The three bundles that the demo pushes: the float model, its INT8 form, and one that must be refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx.numpy_helper

from lineside_converters.optimizer import Optimizer, OptimizeResult
from lineside_models.frame import Frame
from lineside_runtime.bundle import Bundle, write_manifest

NAME = "surface-12-demo"
VERSIONS = ("1.0.0", "1.1.0", "1.2.0")
"""The first, the better and the broken one."""

CONVOLUTION_DIMS = 4
"""Weights of a convolution: outputs, inputs, height, width."""


def compress(
    parent: Path,
    out: Path,
    *,
    version: str,
    frames: Sequence[Frame],
    on_progress: Callable[[str], None],
) -> OptimizeResult:
    """Compresses the float detector to INT8 and checks it on the same frames.

    Args:
        version: Of the new bundle.
        frames: For calibration and evaluation.
        on_progress: Called with the text of each step.

    Raises:
        ConvertError: A gate was not passed.
    """
    optimizer = Optimizer(
        parent,
        target_device="cpu",
        optimization_level=1,
        out=out,
        frames=frames,
        name=NAME,
        version=version,
        on_progress=on_progress,
    )
    return optimizer.run()


def copy_as(source: Bundle, out: Path, *, version: str) -> Bundle:
    """Copies a bundle; the copy has the demo's name."""
    shutil.copytree(source.path, out)
    return write_manifest(out, msgspec.structs.replace(source.manifest, name=NAME, version=version))


def break_weights(good: Bundle, out: Path, *, version: str) -> Bundle:
    """Makes a bundle whose model does not give its golden output; manifest, hashes and signature are valid."""
    copy = copy_as(good, out, version=version)
    path = out / copy.manifest.variants[0].file
    model = onnx.load(path)
    random = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == CONVOLUTION_DIMS:
            weights: np.ndarray[Any, Any] = onnx.numpy_helper.to_array(tensor)
            shuffled = random.permutation(weights.reshape(-1)).reshape(weights.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(shuffled, tensor.name))
    onnx.save(model, path)
    return write_manifest(out, copy.manifest)
