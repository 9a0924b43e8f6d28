"""The end of RT-DETR's and D-FINE's own exports, taken off: the same boxes, before the best are chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from lineside_converters.graph.query_selection import without_selection
from lineside_converters.loading.source import open_source
from lineside_models.postprocess import decode
from lineside_models.preprocess import Letterbox
from lineside_models.vision.model_facts import ModelFacts
from lineside_runtime.bundle import Postprocess

SIDE, QUERIES, CLASSES, BEST = 16, 6, 3, 5
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
LABELS = ("dent", "hole", "stain")


def export() -> onnx.ModelProto:
    """Returns a layer for scores and one for corners of boxes, and the published post-processing behind them.

    Source: https://github.com/lyuwenyu/RT-DETR, ``rtdetr_pytorch/src/zoo/rtdetr/rtdetr_postprocessor.py``.
    """
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray[Any, Any]] = {
        "w": rng.normal(0, 0.2, (3 * SIDE * SIDE, QUERIES * CLASSES)).astype(np.float32),
        "v": rng.normal(0, 0.01, (3 * SIDE * SIDE, QUERIES * 4)).astype(np.float32),
        "corners": np.tile(np.array([0.1, 0.1, 0.6, 0.7], np.float32), QUERIES),
        "rows_of_scores": np.array([-1, QUERIES, CLASSES]),
        "rows_of_boxes": np.array([-1, QUERIES, 4]),
        "best": np.array([BEST]),
        "classes": np.array(CLASSES),
        "last": np.array([2]),
        "four": np.array([1, 1, 4]),
    }
    node = helper.make_node
    nodes = [
        node("Flatten", ["images"], ["flat"]),
        node("MatMul", ["flat", "w"], ["all_scores"]),
        node("Reshape", ["all_scores", "rows_of_scores"], ["logits"]),
        node("MatMul", ["flat", "v"], ["moved"]),
        node("Add", ["moved", "corners"], ["all_boxes"]),
        node("Reshape", ["all_boxes", "rows_of_boxes"], ["shares"]),
        node("Concat", ["orig_target_sizes", "orig_target_sizes"], ["sizes"], axis=1),
        node("Cast", ["sizes"], ["float_sizes"], to=FLOAT),
        node("Mul", ["shares", "float_sizes"], ["scaled"]),
        node("Sigmoid", ["logits"], ["probabilities"]),
        node("Flatten", ["probabilities"], ["flat_scores"]),
        node("TopK", ["flat_scores", "best"], ["scores", "index"]),
        node("Mod", ["index", "classes"], ["labels"]),
        node("Div", ["index", "classes"], ["query"]),
        node("Unsqueeze", ["query", "last"], ["column"]),
        node("Tile", ["column", "four"], ["gathered"]),
        node("GatherElements", ["scaled", "gathered"], ["boxes"], axis=1),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("images", FLOAT, ["N", 3, SIDE, SIDE]), value("orig_target_sizes", INT64, ["N", 2])]
    outputs = [
        value("labels", INT64, ["N", BEST]),
        value("boxes", FLOAT, ["N", BEST, 4]),
        value("scores", FLOAT, ["N", BEST]),
    ]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "export", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def test_all_queries_give_the_boxes_that_the_export_selected(tmp_path: Path) -> None:
    onnx.save(export(), tmp_path / "d-fine.onnx")
    image = np.random.default_rng(1).random((1, 3, SIDE, SIDE), np.float32)
    sizes = np.array([[SIDE, SIDE]])
    whole = onnxruntime.InferenceSession(tmp_path / "d-fine.onnx", providers=["CPUExecutionProvider"])
    labels, boxes, scores = whole.run(["labels", "boxes", "scores"], {"images": image, "orig_target_sizes": sizes})
    source = open_source(tmp_path / "d-fine.onnx", tmp_path / "work", given=ModelFacts(labels=LABELS), trust=False)
    reading = source.manifest.postprocess
    assert reading.name == "detr"
    assert {spec.name for spec in source.manifest.outputs} == {"logits", "scaled"}
    cut = onnxruntime.InferenceSession(source.model, providers=["CPUExecutionProvider"])
    outputs = dict(zip(["logits", "scaled"], cut.run(["logits", "scaled"], {"images": image}), strict=True))
    how = Postprocess(name="detr", params={**reading.params, "max_detections": BEST})
    (found,) = decode(outputs, how, [Letterbox(1.0, 1.0, SIDE, SIDE)])
    assert found.labels.tolist() == labels[0].tolist()
    np.testing.assert_allclose(found.scores, scores[0], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, np.clip(boxes[0], 0, SIDE), atol=1e-4)
    kinds = {node.op_type for node in onnx.load(source.model).graph.node}
    assert not kinds & {"GatherElements", "Sigmoid", "TopK"}


def test_a_graph_of_another_pattern_stays_as_it_is() -> None:
    model = export()
    for node in model.graph.node:
        if node.op_type == "Sigmoid":
            node.op_type = "Tanh"
    before = model.SerializeToString()
    assert without_selection(model) is None
    assert model.SerializeToString() == before
