"""Nodes stand behind what they read, what inner graphs read included."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from lineside_converters.graph.node_order import sort_nodes, tensors_read_by


def branch(name: str) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node("Neg", ["inner"], [name])], name, [], [out])


def model(*order: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Relu", ["x"], ["inner"], name="relu"),  # read by the branches alone
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0, name="sum"),
        helper.make_node("Cast", ["sum"], ["yes"], to=TensorProto.BOOL, name="cast"),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch("one"), else_branch=branch("two"), name="if"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    graph = helper.make_graph([nodes[place] for place in order], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_node_reads_what_its_branches_take_from_outside_and_a_graph_in_order_stays_as_it_is() -> None:
    assert tensors_read_by(model(0, 1, 2, 3).graph.node[3]) == {"yes", "inner"}
    before, after = model(1, 0, 2, 3), model(1, 0, 2, 3)
    sort_nodes(after.graph)
    assert after == before


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 2, 3, 0), (2, 0, 3, 1)])
def test_nodes_are_put_behind_what_they_read(order: tuple[int, ...]) -> None:
    mixed, again = model(*order), model(*order)
    sort_nodes(mixed.graph)
    sort_nodes(again.graph)
    onnx.checker.check_model(mixed)
    onnxruntime.InferenceSession(mixed.SerializeToString(), providers=["CPUExecutionProvider"])
    assert sorted(node.name for node in mixed.graph.node) == ["cast", "if", "relu", "sum"]
    assert again == mixed
