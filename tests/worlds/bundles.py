"""Small bundles: one whose model finds bright areas, and one of bytes that no engine runs.

The graph of the first has the detector's outputs (class logits and box distributions at strides 8, 16 and 32). A cell's
logit is ``gain * (mean of its pixels - 0.5)``, so its detections are known beforehand, and another ``gain`` is another
model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lineside_models.frame import Frame
from lineside_models.golden import record
from lineside_models.verdict.good_classes import with_good_classes
from lineside_runtime.bundle import Bundle, Golden, Manifest, Postprocess, Preprocess, Variant, write_manifest
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec

LABELS = ("bright", "other")
BINS = 4
STRIDES = (8, 16, 32)

FAST = "onnx-fast"
"""Name of the second variant of a bundle with a burden."""


def bright(height: int = 96, width: int = 96) -> np.ndarray:
    """A frame that must be rejected."""
    image = np.zeros((height, width, 3), np.uint8)
    image[32:64, 32:64] = 255
    return image


def dark(height: int = 96, width: int = 96) -> np.ndarray:
    """A frame that must pass."""
    return shade(10, height, width)


def shade(grey: int, height: int = 96, width: int = 96) -> np.ndarray:
    """A frame of almost one grey: an even one is a fault."""
    image = np.full((height, width, 3), grey - 1, np.uint8)
    image[:, width // 2 :] = grey + 1
    return image


def make_bundle(
    folder: Path,
    *,
    version: str = "1.0.0",
    gain: float = 40.0,
    ballast: int = 0,
    ballast_name: str = "ballast.bin",
    golden: bool = True,
    fragile: bool = False,
    burden: int = 0,
) -> Bundle:
    """Builds a bundle.

    Args:
        folder: Made here.
        version: Of the bundle.
        gain: Another one gives other outputs.
        ballast: Size of a further file of noise, in bytes.
        ballast_name: Its name. A hub looks for a patch, in vain, if what is installed has noise of the same suffix.
        golden: Whether a golden input is recorded.
        fragile: Whether the engine fails on every frame that is not 96 pixels square, as the golden input is.
        burden: Channels of a convolution that changes nothing: the first variant then needs many times what the second
            one does, `FAST`, which finds the same.
    """
    model_path = folder / "onnx-fp32" / "model.onnx"
    model_path.parent.mkdir(parents=True)
    model_path.write_bytes(_model(gain, fragile, burden).SerializeToString())
    if burden:
        (folder / FAST).mkdir()
        (folder / FAST / "model.onnx").write_bytes(_model(gain, fragile).SerializeToString())
    (folder / "labels.json").write_text('["bright", "other"]')
    if ballast:
        noise = np.random.default_rng(int(version[0])).bytes(ballast)
        (folder / ballast_name).write_bytes(noise)
    manifest = _manifest(version, has_fast=bool(burden))
    bundle = write_manifest(folder, manifest)
    if not golden:
        return bundle
    with Session(bundle) as session:
        made = record(session, folder, Frame(image=bright()))
    return write_manifest(folder, _manifest(version, made, has_fast=bool(burden)))


def make_shade_classifier(folder: Path, *, version: str = "1.0.0") -> Bundle:
    """Builds a classifier of the brightest pixel of an image: ``grey``, or ``good`` from 0.8 of white on."""
    model_path = folder / "onnx-fp32" / "model.onnx"
    model_path.parent.mkdir(parents=True)
    nodes = [
        helper.make_node("GlobalMaxPool", ["image"], ["most"]),
        helper.make_node("Flatten", ["most"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([[-100.0, 100.0]], np.float32), "weight"),
        numpy_helper.from_array(np.array([80.0, -80.0], np.float32), "bias"),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("image", TensorProto.FLOAT, ["n", 1, 32, 32])]
    graph = helper.make_graph(nodes, "shade", inputs, [value("logits", TensorProto.FLOAT, ["n", 2])], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model_path)
    (folder / "labels.json").write_text('["grey", "good"]')
    manifest = Manifest(
        name="shade",
        version=version,
        task="classification",
        created_at="2026-11-24T00:00:00Z",
        labels=("grey", "good"),
        inputs=(TensorSpec(name="image", shape=(-1, 1, 32, 32), layout="NCHW"),),
        outputs=(TensorSpec(name="logits", shape=(-1, 2)),),
        preprocess=Preprocess(input="image", colour="grey", resize="stretch", size=(32, 32), std=(255.0,)),
        postprocess=with_good_classes(Postprocess(name="classification"), ("grey", "good")),
        variants=(_variant("onnx-fp32", 0),),
    )
    with Session(write_manifest(folder, manifest)) as session:
        made = record(session, folder, Frame(image=bright()))
    return write_manifest(folder, msgspec.structs.replace(manifest, golden=made))


def make_opaque_bundle(
    folder: Path,
    files: Mapping[str, bytes] | None = None,
    *,
    name: str = "surface",
    version: str = "1.0.0",
    model: bytes = b"model",
) -> Bundle:
    """Writes a bundle for those who never look into its model: hub, repository and link.

    Args:
        folder: Made here.
        files: Content of more files, by path.
        name: Of the bundle.
        version: Of the bundle.
        model: Content of ``onnx-int8/model.onnx``.
    """
    for relative, data in {"onnx-int8/model.onnx": model, "labels.json": b'["scratch"]', **(files or {})}.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    spec = TensorSpec(name="image", shape=(-1, 1, 224, 224), layout="NCHW")
    manifest = Manifest(
        name=name,
        version=version,
        created_at="2026-11-24T00:00:00Z",
        labels=("scratch",),
        inputs=(spec,),
        outputs=(spec,),
        preprocess=Preprocess(input="image", colour="grey"),
        postprocess=Postprocess(name="dfl_anchor_free"),
        variants=(Variant(name="onnx-int8", format="onnx", file="onnx-int8/model.onnx", level=1, precision="int8"),),
    )
    return write_manifest(folder, manifest)


def break_golden(bundle: Bundle) -> Bundle:
    """Makes the bundle promise other outputs than its model gives, and describes it anew so that it verifies."""
    golden = bundle.manifest.golden
    assert golden is not None
    for relative in golden.outputs.values():
        path = bundle.path / relative
        np.save(path, -np.load(path))
    return write_manifest(bundle.path, bundle.manifest)


def make_endless(bundle: Bundle) -> Bundle:
    """Puts a loop of 2^62 steps before the bundle's model, and describes it anew so that it verifies."""
    path = bundle.file(bundle.manifest.variants[0].file)
    model = onnx.load(path)
    value = helper.make_tensor_value_info
    shape = ["n", 1, "h", "w"]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["go_on"]), helper.make_node("Add", ["a", "none"], ["b"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("a", TensorProto.FLOAT, shape)],
        [value("go_on", TensorProto.BOOL, []), value("b", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(0, np.float32), "none")],
    )
    for node in model.graph.node:
        node.input[:] = ["looped" if name == "image" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Loop", ["steps", "true", "image"], ["looped"], body=body))
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array(1 << 62, np.int64), "steps"), numpy_helper.from_array(np.array(True), "true")]
    )
    onnx.save(model, path)
    return write_manifest(bundle.path, bundle.manifest)


def _variant(name: str, level: int) -> Variant:
    return Variant(
        name=name,
        format="onnx",
        file=f"{name}/model.onnx",
        level=level,
        precision="fp32",
        requires={"onnxruntime": ">=1.20"},
    )


def _manifest(version: str, golden: Golden | None = None, *, has_fast: bool = False) -> Manifest:
    outputs = []
    for stride in STRIDES:
        outputs.append(TensorSpec(name=f"cls_{stride}", shape=(-1, len(LABELS), -1, -1), layout="NCHW"))
        outputs.append(TensorSpec(name=f"box_{stride}", shape=(-1, 4 * BINS, -1, -1), layout="NCHW"))
    return Manifest(
        name="bright-spots",
        version=version,
        created_at="2026-11-24T00:00:00Z",
        labels=LABELS,
        inputs=(TensorSpec(name="image", shape=(-1, 1, -1, -1), layout="NCHW"),),
        outputs=tuple(outputs),
        preprocess=Preprocess(input="image", colour="grey", min_side=96, max_side=96, std=(255.0,)),
        postprocess=Postprocess(name="dfl_anchor_free", params={"strides": list(STRIDES), "reg_bins": BINS}),
        variants=(_variant("onnx-fp32", 0), *([_variant(FAST, 2)] if has_fast else [])),
        golden=golden,
    )


def _burdened(source: str, channels: int, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]) -> str:
    """Adds what costs time and changes nothing: 0 x max(0, convolutions) + the image."""
    rng = np.random.default_rng(0)
    for name, shape in (("burden_a", (channels, 1, 3, 3)), ("burden_b", (channels, channels, 3, 3))):
        weights.append(numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name))
    weights.append(numpy_helper.from_array(np.zeros((1, channels, 1, 1), np.float32), "burden_c"))
    nodes.append(helper.make_node("Conv", [source, "burden_a"], ["burden_1"], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Conv", ["burden_1", "burden_b"], ["burden_2"], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Relu", ["burden_2"], ["burden_3"]))
    nodes.append(helper.make_node("Conv", ["burden_3", "burden_c"], ["burden_4"]))
    nodes.append(helper.make_node("Add", ["burden_4", source], ["burdened"]))
    return "burdened"


def _model(gain: float, fragile: bool, burden: int = 0) -> onnx.ModelProto:
    nodes, weights, outputs = [], [], []
    source = "image"
    if fragile:
        source = "square"
        weights.append(numpy_helper.from_array(np.array([-1, 1, 96, 96], np.int64), "size"))
        nodes.append(helper.make_node("Reshape", ["image", "size"], [source]))
    if burden:
        source = _burdened(source, burden, nodes, weights)
    for stride in STRIDES:
        mean = np.full((len(LABELS), 1, stride, stride), gain / stride**2, np.float32)
        mean[1] = 0.0
        bias = np.array([-gain / 2, -gain], np.float32)
        zero = np.zeros((4 * BINS, 1, stride, stride), np.float32)
        for name, kernel, offset in (
            (f"cls_{stride}", mean, bias),
            (f"box_{stride}", zero, np.tile(np.array([2.0, 1.0, 0.0, 0.0], np.float32), 4)),
        ):
            weights += [numpy_helper.from_array(kernel, f"{name}_w"), numpy_helper.from_array(offset, f"{name}_b")]
            inputs = [source, f"{name}_w", f"{name}_b"]
            nodes.append(helper.make_node("Conv", inputs, [name], strides=[stride, stride]))
            shape = ["n", kernel.shape[0], f"h{stride}", f"w{stride}"]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "h", "w"])
    graph = helper.make_graph(nodes, "bright-spots", [image], outputs, initializer=weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    return model
