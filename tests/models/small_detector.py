"""A detector in a few operators whose answers are known: bright cells of 8 × 8 pixels are defects.

``cls_8`` has two classes: class 0 fires in bright cells, class 1 in dark ones; ``box_8`` puts each side one stride from
the cell's centre.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Preprocess, Variant, write_manifest
from lineside_runtime.tensors import TensorSpec
from tests.runtime.onnx_models import FLOAT, graph

LABELS = ("bright", "dark")
BINS = 4
PREPROCESS = Preprocess(input="image", colour="grey", min_side=32, max_side=64, multiple_of=8, pad_value=128)
POSTPROCESS = Postprocess(name="dfl_anchor_free", params={"strides": [8], "reg_bins": BINS, "thresholds": [0.5, 0.9]})


def detector(gain: float = 1.0) -> bytes:
    """Logit of class 0: ``gain`` × (mean of the cell - 200) / 5; of class 1: ``gain`` × (50 - mean) / 5."""
    slopes = np.array([gain / 5, -gain / 5], np.float32).reshape(2, 1, 1, 1)
    offsets = np.array([-200 * gain / 5, 50 * gain / 5], np.float32)
    distance = np.full((4, BINS), -30, np.float32)
    distance[:, 1] = 30  # the distribution's mean is one stride
    tensors = {
        "slopes": slopes,
        "offsets": offsets,
        "no_slope": np.zeros((4 * BINS, 1, 1, 1), np.float32),
        "distance": distance.reshape(-1),
    }
    nodes = [
        *(
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
            for name, value in tensors.items()
        ),
        helper.make_node("AveragePool", ["image"], ["mean"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Conv", ["mean", "slopes", "offsets"], ["cls_8"]),
        helper.make_node("Conv", ["mean", "no_slope", "distance"], ["box_8"]),
    ]
    inputs: list[Any] = [("image", FLOAT, ["n", 1, "h", "w"])]
    outputs: list[Any] = [("cls_8", FLOAT, ["n", 2, "hc", "wc"]), ("box_8", FLOAT, ["n", 4 * BINS, "hc", "wc"])]
    return graph(nodes, inputs, outputs)


def detector_bundle(folder: Path, *, gain: float = 1.0, version: str = "1", batch: int = -1) -> Bundle:
    """Writes a bundle of it, with no golden input."""
    data = detector(gain)
    if batch != -1:
        model = onnx.load_from_string(data)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
        data = model.SerializeToString()
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(data)
    manifest = Manifest(
        name="cells",
        version=version,
        created_at="2026-11-24T00:00:00+00:00",
        labels=LABELS,
        inputs=(TensorSpec(name="image", shape=(batch, 1, -1, -1), layout="NCHW"),),
        outputs=(
            TensorSpec(name="cls_8", shape=(-1, 2, -1, -1), layout="NCHW"),
            TensorSpec(name="box_8", shape=(-1, 4 * BINS, -1, -1), layout="NCHW"),
        ),
        preprocess=PREPROCESS,
        postprocess=POSTPROCESS,
        variants=(Variant(name="onnx", format="onnx", file="onnx/model.onnx", level=0, precision="fp32"),),
    )
    return write_manifest(folder, manifest)


def part(*cells: tuple[int, int], size: tuple[int, int] = (48, 64), grey: int = 255) -> np.ndarray[Any, Any]:
    """A grey image with the cells (row, column) in another grey."""
    image = np.full(size, 128, np.uint8)
    image[: size[0] // 2] = 127  # an even frame is a fault
    for row, column in cells:
        image[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = grey
    return image
