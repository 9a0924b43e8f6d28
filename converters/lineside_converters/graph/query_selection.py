"""Removal of the selection of the best queries, which RT-DETR's, D-FINE's and DEIM's own exports end with.

The rows behind a selection change places with the smallest change of a score, so that they cannot be compared with
those of a converted model, and a quantized graph gains nothing by it: the device selects.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from lineside_runtime.bundle import Postprocess

SELECTED = Postprocess(name="detections", params={"shares": True})
"""How the outputs of such an export are recognised."""

_GATHERS = ("GatherElements", "GatherND", "Gather")
_SHAPES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")

Makers = Mapping[str, onnx.NodeProto]


def without_selection(model: onnx.ModelProto) -> Postprocess | None:
    """Ends a graph before its ``TopK``, and removes what only that needed.

    Args:
        model: With the outputs ``labels``, ``boxes`` and ``scores``; it is changed.

    Returns:
        How its new outputs are read; ``None``, and an unchanged model, if its nodes have another pattern.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    logits, boxes = _logits_of("scores", makers), _gathered_by("boxes", makers)
    if logits is None or boxes is None:
        return None
    needed = _needed({logits, boxes}, makers)
    kept = [node for node in model.graph.node if needed.intersection(node.output)]
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    del model.graph.node[:], model.graph.initializer[:], model.graph.output[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(weights)
    for name in (logits, boxes):  # their shapes are inferred by who reads the graph
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    known = {value.name for value in model.graph.output}
    for value in [value for value in model.graph.value_info if value.name in known]:
        model.graph.value_info.remove(value)
    return Postprocess(name="detr", params={"scores": logits, "boxes": boxes, "order": "xyxy"})


def _logits_of(output: str, makers: Makers) -> str | None:
    """Returns what goes into the sigmoid before the ``TopK`` that makes an output."""
    selection = _up(output, makers, _SHAPES)
    if selection is None or selection.op_type != "TopK":
        return None
    activation = _up(selection.input[0], makers, _SHAPES)
    return activation.input[0] if activation is not None and activation.op_type == "Sigmoid" else None


def _gathered_by(output: str, makers: Makers) -> str | None:
    """Returns the tensor of all rows of which an output has some."""
    selection = _up(output, makers, _SHAPES)
    return selection.input[0] if selection is not None and selection.op_type in _GATHERS else None


def _up(name: str, makers: Makers, over: tuple[str, ...]) -> onnx.NodeProto | None:
    node = makers.get(name)
    while node is not None and node.op_type in over:
        node = makers.get(node.input[0])
    return node


def _needed(outputs: set[str], makers: Makers) -> set[str]:
    """Returns the names of all values that the outputs follow from, themselves included."""
    needed, waiting = set(outputs), list(outputs)
    while waiting:
        node = makers.get(waiting.pop())
        read = set() if node is None else {*node.input, *_read_inside(node)} - needed
        needed |= read
        waiting += read
    return needed


def _read_inside(node: onnx.NodeProto) -> set[str]:
    """Returns what the inner graphs of a node read."""
    graphs = [inner for attribute in node.attribute for inner in (attribute.g, *attribute.graphs)]
    inside = [one for graph in graphs for one in graph.node]
    return {name for one in inside for name in (*one.input, *_read_inside(one))}
