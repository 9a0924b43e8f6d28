"""Outputs that join scores with boxes, as YOLOX's and NanoDet's exports do, keep the resolution of the scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lineside_converters.quantization.static import joined_scores, quantize
from tests.runtime.onnx_models import exact_session

SIDE = 16


def head(path: Path, *, joined: bool = True) -> Path:
    """Writes a layer for boxes up to about 40 and one for scores 0 to 1, joined or not."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "v": rng.normal(0, 6, (4, 8, 1, 1)),
        "u": rng.normal(0, 0.7, (2, 8, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], name="trunk", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="act"),
        helper.make_node("Conv", ["b", "v"], ["boxes"], name="box"),
        helper.make_node("Conv", ["b", "u"], ["logits"], name="score"),
        helper.make_node("Sigmoid", ["logits"], ["scores"], name="sigmoid"),
    ]
    if joined:
        nodes.append(helper.make_node("Concat", ["boxes", "scores"], ["out"], name="join", axis=1))
    value = helper.make_tensor_value_info
    shapes = {"out": 6} if joined else {"boxes": 4, "scores": 2}
    graph = helper.make_graph(
        nodes,
        "head",
        [value("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [value(name, TensorProto.FLOAT, [1, size, SIDE, SIDE]) for name, size in shapes.items()],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_scores_keep_their_steps_beside_boxes(tmp_path: Path) -> None:
    model = head(tmp_path / "head.onnx")
    assert joined_scores(onnx.load(model)) == {"join", "sigmoid"}
    feeds = [{"image": np.random.default_rng(seed).random((1, 3, SIDE, SIDE), np.float32)} for seed in range(4)]
    quantize(model, tmp_path / "int8.onnx", feeds=feeds)
    kinds = {node.name: node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert "QuantizeLinear" in kinds.values()
    sessions = [exact_session(tmp_path / name) for name in ("head.onnx", "int8.onnx")]
    wanted, found = (session.run(None, feeds[0])[0][:, 4:] for session in sessions)
    assert np.abs(wanted - found).max() < 0.05  # a step of the boxes is above 0.1
    assert len(np.unique(found)) > 50


def test_outputs_that_are_not_joined_stay_as_they_are(tmp_path: Path) -> None:
    assert joined_scores(onnx.load(head(tmp_path / "head.onnx", joined=False))) == frozenset()
