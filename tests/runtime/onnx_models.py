"""Small ONNX models and bundles of them, made anew for each test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import TensorProto, helper

from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort.session import session_options
from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Preprocess, Variant, write_manifest
from lineside_runtime.tensors import TensorSpec

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def graph(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], *, domains: Sequence[str] = ()) -> bytes:
    """Serialises a graph; inputs and outputs are (name, type, shape)."""
    value = helper.make_tensor_value_info
    made = helper.make_graph(nodes, "test", [value(*one) for one in inputs], [value(*one) for one in outputs])
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model: onnx.ModelProto = helper.make_model(made, opset_imports=opsets, ir_version=9)
    return model.SerializeToString()


def exact_session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime as on a device: INT8 sums are exact on every processor."""
    options = session_options(LoadOptions(threads=1))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def scaler(factor: float) -> bytes:
    """``y = factor * x`` for x (N, 4)."""
    constant = helper.make_tensor("factor", FLOAT, [1], [factor])
    nodes = [
        helper.make_node("Constant", [], ["f"], value=constant),
        helper.make_node("Mul", ["x", "f"], ["y"]),
    ]
    return graph(nodes, [("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 4])])


def memory_eater() -> bytes:
    """``y`` = sum of as many zeros as ``s`` says: ONNX Runtime allocates them, OpenVINO doesn't."""
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["a"]), helper.make_node("ReduceSum", ["a"], ["y"], keepdims=0)]
    return graph(nodes, [("s", INT64, [1])], [("y", FLOAT, [])])


def openvino_only() -> bytes:
    """An operator that OpenVINO knows and ONNX Runtime doesn't."""
    node = helper.make_node("Swish", ["x"], ["y"], domain="org.openvinotoolkit")
    return graph([node], [("x", FLOAT, [1, 4])], [("y", FLOAT, [1, 4])], domains=["org.openvinotoolkit"])


def unhappy_reshape() -> bytes:
    """Reshapes to what ``s`` says, so that the wrong ``s`` fails inside every engine."""
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    return graph([node], [("x", FLOAT, ["n"]), ("s", INT64, [2])], [("y", FLOAT, ["a", "b"])])


def halves_and_doubles() -> bytes:
    """Adds an image (N, 1, H, W) to itself pooled and enlarged: odd sizes don't fit inside the graph."""
    scales = helper.make_tensor("scales", FLOAT, [4], [1, 1, 2, 2])
    nodes = [
        helper.make_node("Constant", [], ["scales"], value=scales),
        helper.make_node("MaxPool", ["x"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["pooled", "", "scales"], ["enlarged"], mode="nearest"),
        helper.make_node("Add", ["x", "enlarged"], ["y"]),
    ]
    return graph(nodes, [("x", FLOAT, ["n", 1, "h", "w"])], [("y", FLOAT, ["n", 1, "hh", "ww"])])


SCALER_SPECS = ((TensorSpec(name="x", shape=(-1, 4)),), (TensorSpec(name="y", shape=(-1, 4)),))
EATER_SPECS = ((TensorSpec(name="s", shape=(1,), dtype="int64"),), (TensorSpec(name="y", shape=()),))
SWISH_SPECS = ((TensorSpec(name="x", shape=(1, 4)),), (TensorSpec(name="y", shape=(1, 4)),))
RESHAPE_SPECS = (
    (TensorSpec(name="x", shape=(-1,)), TensorSpec(name="s", shape=(2,), dtype="int64")),
    (TensorSpec(name="y", shape=(-1, -1)),),
)


def make_bundle(
    folder: Path,
    models: bytes | dict[int, bytes],
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]] = SCALER_SPECS,
    *,
    name: str = "test",
    version: str = "1",
    device_kinds: tuple[Any, ...] = ("cpu",),
    requires: dict[str, str] | None = None,
    model_format: Any = "onnx",
) -> Bundle:
    """Writes a bundle; ``models`` is one model, or one for each optimisation level."""
    variants = []
    for level, data in (models if isinstance(models, dict) else {0: models}).items():
        file = f"level{level}/model.onnx"
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_bytes(data)
        variants.append(
            Variant(
                name=f"level{level}",
                format=model_format,
                file=file,
                level=level,
                precision="fp32",
                device_kinds=device_kinds,
                requires=requires or {},
            )
        )
    manifest = Manifest(
        name=name,
        version=version,
        created_at="2026-11-24T00:00:00+00:00",
        labels=("a",),
        inputs=specs[0],
        outputs=specs[1],
        preprocess=Preprocess(input=specs[0][0].name, colour="grey"),
        postprocess=Postprocess(name="none"),
        variants=tuple(variants),
    )
    return write_manifest(folder, manifest)
