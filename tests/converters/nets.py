"""Networks for the converters' tests, made anew each time with numpy and onnx: no torch, and answers that are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lineside_models.labels import LABELS
from lineside_models.vision.model_facts import METADATA_KEY, ModelFacts
from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Preprocess, Variant, write_manifest
from lineside_runtime.tensors import TensorSpec

BINS = 16
PREPROCESS = Preprocess(
    input="image", colour="grey", min_side=96, max_side=256, multiple_of=8, mean=(127.0,), std=(128.0,)
)
POSTPROCESS = Postprocess(name="dfl_anchor_free", params={"strides": [8], "thresholds": [0.5] * len(LABELS)})
FACTS = ModelFacts(labels=LABELS, preprocess=PREPROCESS, postprocess=POSTPROCESS)


class _Chain:
    """A graph that is put together one convolution after the other."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._rng = np.random.default_rng(seed)

    def conv(self, source: str, shape: tuple[int, int, int], *, stride: int = 1, to: str = "") -> str:
        outputs, inputs, side = shape
        name = f"conv{len(self.weights)}"
        scale = np.sqrt(2 / (inputs * side * side))
        weight = self._rng.normal(0, scale, (outputs, inputs, side, side)).astype(np.float32)
        self.weights += [numpy_helper.from_array(weight, f"{name}_w")]
        made = to or f"{name}_out"
        pad = side // 2
        self.nodes.append(
            helper.make_node(
                "Conv", [source, f"{name}_w"], [made], name=name, strides=[stride] * 2, pads=[pad] * 4,
                kernel_shape=[side] * 2,
            )
        )  # fmt: skip
        return made

    def relu(self, source: str) -> str:
        made = f"{source}_relu"
        self.nodes.append(helper.make_node("Relu", [source], [made], name=f"{source}_relu_node"))
        return made

    def add(self, operator: str, sources: Sequence[str], made: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(sources), [made], name=f"{made}_node", **attributes))
        return made


def convnet(*, channels: int = 32, depth: int = 10, seed: int = 0, facts: ModelFacts | None = FACTS) -> bytes:
    """A detector's shape with random weights: stride 8, then ``depth`` convolutions, then the two heads."""
    chain = _Chain(seed)
    at = chain.add("Identity", ["image"], "same")  # what an export leaves behind
    for number in range(3):
        at = chain.relu(chain.conv(at, (channels, channels if number else 1, 3), stride=2))
    for _ in range(depth):
        at = chain.relu(chain.conv(at, (channels, channels, 3)))
    chain.conv(at, (len(LABELS), channels, 1), to="cls_8")
    chain.conv(at, (4 * BINS, channels, 1), to="box_8")
    return _serialise(chain.nodes, chain.weights, facts)


def slow_in_int8(*, facts: ModelFacts | None = FACTS) -> bytes:
    """Little that INT8 makes faster, and a convolution a stage to quantise and dequantise around."""
    chain = _Chain(0)
    at = "image"
    for number in range(8):
        at = chain.conv(at, (1, 1, 1))
        chain.weights[-1] = numpy_helper.from_array(np.full((1, 1, 1, 1), 1.5, np.float32), f"conv{number}_w")
        at = chain.add("Softsign", [at], f"soft{number}")  # has no INT8 form, so that each stage goes back to float
    pooled = chain.add("AveragePool", [at], "pooled", kernel_shape=[8, 8], strides=[8, 8])
    chain.conv(pooled, (len(LABELS), 1, 1), to="cls_8")
    chain.conv(pooled, (4 * BINS, 1, 1), to="box_8")
    return _serialise(chain.nodes, chain.weights, facts)


def cell_detector(*, bar: float = 200.0, facts: ModelFacts | None = FACTS) -> bytes:
    """Finds bright cells of 8 × 8 pixels as crazing and dark ones as inclusion; boxes of 16 × 16 around them.

    Args:
        bar: Grey value at which crazing has the score 0.5.
        facts: Put into the metadata.
    """
    slopes = np.zeros((len(LABELS), 1, 1, 1), np.float32)
    offsets = np.full(len(LABELS), -20, np.float32)
    slopes[0], offsets[0] = 128 / 20, (127 - bar) / 20  # of the normalised mean of the cell
    slopes[1], offsets[1] = -128 / 20, (50 - 127) / 20
    distance = np.full((4, BINS), -30, np.float32)
    distance[:, 1] = 30  # one stride
    weights = [
        numpy_helper.from_array(slopes, "slopes"),
        numpy_helper.from_array(offsets, "offsets"),
        numpy_helper.from_array(np.zeros((4 * BINS, 1, 1, 1), np.float32), "flat"),
        numpy_helper.from_array(distance.reshape(-1), "distance"),
    ]
    nodes = [
        helper.make_node("AveragePool", ["image"], ["mean"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Conv", ["mean", "slopes", "offsets"], ["cls_8"], name="cls"),
        helper.make_node("Conv", ["mean", "flat", "distance"], ["box_8"], name="box"),
    ]
    return _serialise(nodes, weights, facts)


DOUBTFUL = ModelFacts(
    labels=("dent", "hole", "good"),
    preprocess=Preprocess(input="image", colour="grey", resize="stretch", size=(32, 32), mean=(127.0,), std=(128.0,)),
    postprocess=Postprocess(name="classification", params={"good": [2]}),
)


def doubtful_classifier(path: Path, *, facts: ModelFacts | None = DOUBTFUL) -> Path:
    """Writes a classifier of dent, hole and good by brightness (dark, grey, bright) that is never sure of a defect.

    A dark picture has the scores 0.43, 0.29, 0.29, a grey one 0.29, 0.43, 0.29, a bright one 0.05, 0.05, 0.90.
    """
    levels = np.array([-1.0, 0.0, 1.0])
    logits = np.diag([0.4, 0.4, 2.9])
    parabolas = np.linalg.solve(np.stack([np.ones(3), levels, levels**2], axis=1), logits)  # one a class
    kernel = parabolas[1:].T.reshape(3, 2, 1, 1).astype(np.float32)
    weights = [
        numpy_helper.from_array(kernel, "kernel"),
        numpy_helper.from_array(parabolas[0].astype(np.float32), "constant"),
    ]
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Mul", ["mean", "mean"], ["square"]),
        helper.make_node("Concat", ["mean", "square"], ["powers"], axis=1),
        helper.make_node("Conv", ["powers", "kernel", "constant"], ["scores"]),
        helper.make_node("Flatten", ["scores"], ["logits"]),
    ]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "net",
        [value("image", TensorProto.FLOAT, ["n", 1, 32, 32])],
        [value("logits", TensorProto.FLOAT, ["n", 3])],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if facts is not None:
        model.metadata_props.add(key=METADATA_KEY, value=msgspec.json.encode(facts).decode())
    path.write_bytes(model.SerializeToString())
    return path


def _serialise(nodes: Sequence[Any], weights: Sequence[Any], facts: ModelFacts | None) -> bytes:
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "net",
        [value("image", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [
            value("cls_8", TensorProto.FLOAT, ["n", len(LABELS), "hc", "wc"]),
            value("box_8", TensorProto.FLOAT, ["n", 4 * BINS, "hc", "wc"]),
        ],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if facts is not None:
        model.metadata_props.add(key=METADATA_KEY, value=msgspec.json.encode(facts).decode())
    data: bytes = model.SerializeToString()
    return data


def manifest(name: str = "cells", *, precision: Any = "fp32") -> Manifest:
    """A manifest for any of these networks."""
    file = f"onnx-{precision}/model.onnx"
    return Manifest(
        name=name,
        version="1.0.0",
        created_at="2026-11-24T00:00:00Z",
        labels=LABELS,
        inputs=(TensorSpec(name="image", shape=(-1, 1, -1, -1), layout="NCHW"),),
        outputs=(
            TensorSpec(name="cls_8", shape=(-1, len(LABELS), -1, -1), layout="NCHW"),
            TensorSpec(name="box_8", shape=(-1, 4 * BINS, -1, -1), layout="NCHW"),
        ),
        preprocess=PREPROCESS,
        postprocess=POSTPROCESS,
        variants=(Variant(name=f"onnx-{precision}", format="onnx", file=file, level=0, precision=precision),),
    )


def bundle(folder: Path, model: bytes, *, name: str = "cells") -> Bundle:
    """An unproved bundle around a network, with no golden input."""
    made = manifest(name)
    target = folder / made.variants[0].file
    target.parent.mkdir(parents=True)
    target.write_bytes(model)
    return write_manifest(folder, made)


def noise(count: int, *, side: int = 96, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """Prepared inputs ``(1, 1, side, side)`` of smooth noise."""
    rng = np.random.default_rng(seed)
    return [
        cv2.GaussianBlur(rng.normal(0, 2, (side, side)).astype(np.float32), (5, 5), 0)[None, None] for _ in range(count)
    ]


def feeds(tensors: Sequence[np.ndarray[Any, Any]], name: str = "image") -> list[dict[str, np.ndarray[Any, Any]]]:
    """Returns what the model takes, one a tensor."""
    return [{name: tensor} for tensor in tensors]


def cells_picture(seed: int, *, side: int = 96) -> tuple[np.ndarray[Any, Any], list[tuple[int, tuple[int, ...]]]]:
    """A grey picture with bright and dark cells of several strengths, and (label, box) of those that count as true."""
    rng = np.random.default_rng(seed)
    image = rng.integers(110, 140, (side, side)).astype(np.uint8)
    places = rng.permutation((side // 8 - 2) ** 2)[:8]
    truths: list[tuple[int, tuple[int, ...]]] = []
    for place in places:
        row, column = 1 + place // (side // 8 - 2), 1 + place % (side // 8 - 2)
        label = int(rng.integers(2))
        grey = int(rng.integers(190, 256)) if label == 0 else int(rng.integers(0, 60))
        image[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = grey
        if rng.random() < 0.7:  # the others are false alarms
            x, y = column * 8 - 4 + int(rng.integers(-3, 4)), row * 8 - 4 + int(rng.integers(-3, 4))
            truths.append((label, (max(0, x), max(0, y), min(side, x + 16), min(side, y + 16))))
    if not truths:
        truths.append((0, (0, 0, 16, 16)))
    return image, truths


def write_cells_dataset(root: Path, count: int, *, fold: str = "val") -> Path:
    """Writes pictures of cells in the layout of neu-det."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    rows = ["image,fold"]
    for number in range(count):
        image, truths = cells_picture(number)
        cv2.imwrite(str(root / "images" / f"part_{number}.png"), image)
        objects = "".join(
            f"<object><name>{LABELS[label]}</name><bndbox><xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin>"
            f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
            for label, box in truths
        )
        (root / "annotations" / f"part_{number}.xml").write_text(f"<annotation>{objects}</annotation>")
        rows.append(f"part_{number}.png,{fold}")
    (root / "folds.csv").write_text("\n".join(rows) + "\n")
    return root


def load(data: bytes) -> onnx.ModelProto:
    """Parses a network."""
    return onnx.load_from_string(data)
