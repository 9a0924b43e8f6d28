"""A quantised graph back to floats: it says what the INT8 one says, and a ReLU that the quantiser swallowed is back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.graph.dequantize import dequantize, is_quantized
from lineside_converters.quantization.static import quantize
from lineside_models import zoo
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import GraphError
from lineside_runtime.serving.candidates import variant_named
from lineside_runtime.system.vnni import WEIGHT_BITS_KEY
from tests.converters import nets
from tests.runtime.onnx_models import exact_session


def run(path: Path, tensor: np.ndarray) -> list[np.ndarray]:
    return exact_session(path).run(None, {"image": tensor})


def write_bounded(path: Path, bound: float | None) -> None:
    """Two convolutions with a ReLU between them that is bounded or not."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((8, 1, 3, 3)).astype(np.float32), "w1"),
        numpy_helper.from_array(rng.standard_normal((4, 8, 3, 3)).astype(np.float32), "w2"),
        numpy_helper.from_array(np.array(0, np.float32), "low"),
        numpy_helper.from_array(np.array(bound or 0, np.float32), "high"),
    ]
    between = ("Relu", ["a"]) if bound is None else ("Clip", ["a", "low", "high"])
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node(*between, ["b"], name="between"),
        helper.make_node("Conv", ["b", "w2"], ["out"], pads=[1, 1, 1, 1], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 16, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 4, 16, 16])],
        weights if bound is not None else weights[:2],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize("bound", [None, 6.0])
def test_the_float_form_bounds_what_the_quantiser_bounded(tmp_path: Path, bound: float | None) -> None:
    write_bounded(tmp_path / "net.onnx", bound)
    clean_graph(tmp_path / "net.onnx", tmp_path / "clean.onnx")
    rng = np.random.default_rng(1)
    frames = [3 * rng.standard_normal((1, 1, 16, 16)).astype(np.float32) for _ in range(8)]
    quantize(tmp_path / "clean.onnx", tmp_path / "int8.onnx", feeds=[{"image": frame} for frame in frames])
    swallowed = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert not swallowed & {"Relu", "Clip"}, "the quantiser keeps the activation now: this test tests nothing"

    dequantize(tmp_path / "int8.onnx", tmp_path / "float.onnx")
    assert not is_quantized(onnx.load(tmp_path / "float.onnx"))
    beyond = 9 * frames[0]  # far out of the calibrated range, where only a true ReLU or ReLU6 is right
    for frame in (*frames, beyond):
        (wanted,), (found,) = run(tmp_path / "clean.onnx", frame), run(tmp_path / "float.onnx", frame)
        np.testing.assert_allclose(found, wanted, atol=0.05 * float(np.abs(wanted).max()))


def test_the_shipped_int8_detector_says_the_same_in_floats(tmp_path: Path) -> None:
    bundle = open_bundle(zoo.path("surface-12"))
    variant = variant_named(bundle.manifest, "onnx-int8")  # without test-time augmentation
    dequantize(bundle.file(variant.file), tmp_path / "float.onnx")
    said = [
        {entry.key for entry in onnx.load(path).metadata_props}
        for path in (bundle.file(variant.file), tmp_path / "float.onnx")
    ]
    assert said[0] - said[1] == {WEIGHT_BITS_KEY}, "floats have no such bits"
    tensor = prepare(render("steel", 3).image, bundle.manifest.preprocess)[0]
    for wanted, found in zip(run(bundle.file(variant.file), tensor), run(tmp_path / "float.onnx", tensor), strict=True):
        assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.95


def test_the_float_form_can_be_quantized_again(tmp_path: Path) -> None:
    detector = open_bundle(zoo.path("surface-12"))
    tensor, _ = prepare(render("steel", 7).image, detector.manifest.preprocess)
    dequantize(detector.file("onnx-int8/model.onnx"), tmp_path / "float.onnx")
    clean_graph(tmp_path / "float.onnx", tmp_path / "clean.onnx")
    quantize(tmp_path / "clean.onnx", tmp_path / "signed.onnx", feeds=[{"image": tensor}], activation="s8s8")
    for one, other in zip(run(tmp_path / "clean.onnx", tensor), run(tmp_path / "signed.onnx", tensor), strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9


def test_a_graph_that_is_not_in_the_qdq_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(nets.convnet())
    with pytest.raises(GraphError, match="can't be undone"):
        dequantize(tmp_path / "net.onnx", tmp_path / "float.onnx")
    assert not (tmp_path / "float.onnx").exists()
