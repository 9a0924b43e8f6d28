"""What a retrained detector's file looks like beside the shipped one: scripted, so that deltas can be compared.

The shipped float model is changed and quantised again by the project's own recipe, so that scales, zero points and
biases move as they do when a customer retrains. Each change is seeded.

| case | what changed |
| --- | --- |
| ``head`` | weights and biases of the three classification layers, by normal noise of 30 % of their spread |
| ``recalibrated`` | nothing but the calibration: other frames of the line simulator |
| ``all_a_little`` | weights of every convolution, by normal noise of 0.02 % of their spread: a last, gentle epoch |
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from lineside_converters.compress.cleanup import clean_graph
from lineside_converters.compress.quantize import quantize
from lineside_converters.material import SIMULATED_CALIBRATION, SIMULATOR_SEED
from lineside_converters.recipes import RECIPES
from lineside_models import zoo
from lineside_models.preprocess import prepare
from lineside_models.simulator import stream
from lineside_runtime.bundle import open_bundle

CASES = ("unchanged", "head", "recalibrated", "all_a_little")
SEED = 7


def retrained(case: str) -> bytes:
    """Returns the INT8 file of one case; ``unchanged`` gives what the recipe makes of the shipped float model."""
    bundle = open_bundle(zoo.path("surface-12-float"))
    model = onnx.load(bundle.path / bundle.manifest.variants[0].file)
    if case == "head":
        _disturb(model, share=0.3, prefix="cls_heads.", suffixes=(".2.weight", ".2.bias"))
    elif case == "all_a_little":
        _disturb(model, share=0.0002)
    seed = SIMULATOR_SEED + (1 if case != "recalibrated" else 1001)
    frames = [frame.image for frame in itertools.islice(stream(seed), SIMULATED_CALIBRATION)]
    tensors = [prepare(frame, bundle.manifest.preprocess)[0] for frame in frames]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model, folder / "float.onnx")
        clean_graph(folder / "float.onnx", folder / "clean.onnx")
        quantize(
            folder / "clean.onnx",
            folder / "int8.onnx",
            input_name=bundle.manifest.preprocess.input,
            tensors=tensors,
            float_convs=RECIPES[1].float_convs,
        )
        return (folder / "int8.onnx").read_bytes()


def _disturb(model: onnx.ModelProto, *, share: float, prefix: str = "", suffixes: tuple[str, ...] = ("",)) -> None:
    random = np.random.default_rng(SEED)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        wanted = tensor.name.startswith(prefix) and tensor.name.endswith(suffixes)
        if wanted and values.dtype == np.float32 and (values.ndim == 4 or suffixes != ("",)):
            noise = random.normal(0, share * float(values.std()), values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values + noise, tensor.name))
