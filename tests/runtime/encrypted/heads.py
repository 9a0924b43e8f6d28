"""Heads for tests, and an INT8 classifier made by ONNX Runtime's own quantizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from lineside_models.frame import Frame
from lineside_models.golden import record
from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Preprocess, Variant, write_manifest
from lineside_runtime.encrypted import HeadDescription, LinearHead
from lineside_runtime.encrypted.head import sum_bits
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec

SIDE, CHANNELS, LABELS = 32, 40, ("good", "scratch", "dent")


def linear_head(weights: np.ndarray, bias: np.ndarray, span: tuple[int, int] = (-128, 127)) -> LinearHead:
    described = HeadDescription(
        name="parts@1.0.0",
        labels=tuple(f"type-{number}" for number in range(len(bias))),
        features=weights.shape[1],
        feature_range=span,
        feature_output="features",
        output="logits",
        scales=(0.01,) * len(bias),
        sum_bits=sum_bits(weights, bias, span),
        postprocess=Postprocess(name="classification"),
    )
    return LinearHead(weights.astype(np.int64), bias.astype(np.int64), described)


def images(count: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        grey = images(8)[..., 0].astype(np.float32)[:, None] / 255
        self._feeds: Iterator[dict[str, np.ndarray]] = iter([{"image": one[None]} for one in grey])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def make_classifier(folder: Path, *, as_matmul: bool = False, labels: Sequence[str] = LABELS) -> Bundle:
    """Builds a bundle: a convolution, a mean over the image and a linear layer, quantized by ONNX Runtime."""
    random = np.random.default_rng(7)
    weights = {
        "w": random.normal(size=(CHANNELS, 1, 3, 3)).astype(np.float32),
        "fc": random.normal(size=(CHANNELS, len(labels))).astype(np.float32),
        "b": random.normal(size=len(labels)).astype(np.float32),
    }
    last = [helper.make_node("Gemm", ["flat", "fc", "b"], ["logits"], name="fc")]
    if as_matmul:
        last = [helper.make_node("MatMul", ["flat", "fc"], ["m"]), helper.make_node("Add", ["m", "b"], ["logits"])]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["flat"]),
        *last,
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "parts",
        [value("image", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [value("logits", TensorProto.FLOAT, ["n", len(labels)])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    file = folder / "onnx-int8" / "model.onnx"
    file.parent.mkdir(parents=True)
    source = folder.parent / f"{folder.name}-float.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), source)
    quantize_static(
        source, file, _Calibration(), quant_format=QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8
    )
    (folder / "labels.json").write_bytes(msgspec.json.encode(labels))
    manifest = Manifest(
        name="parts",
        version="1.0.0",
        task="classification",
        created_at="2026-11-28T00:00:00Z",
        labels=tuple(labels),
        inputs=(TensorSpec(name="image", shape=(-1, 1, SIDE, SIDE), layout="NCHW"),),
        outputs=(TensorSpec(name="logits", shape=(-1, len(labels))),),
        preprocess=Preprocess(input="image", colour="grey", resize="stretch", size=(SIDE, SIDE), std=(255.0,)),
        postprocess=Postprocess(name="classification", params={"good": [0]}),
        variants=(Variant(name="onnx-int8", format="onnx", file="onnx-int8/model.onnx", level=1, precision="int8"),),
    )
    with Session(write_manifest(folder, manifest)) as session:
        golden = record(session, folder, Frame(image=images(1)[0]))
    return write_manifest(folder, msgspec.structs.replace(manifest, golden=golden))
