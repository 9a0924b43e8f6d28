"""Names of networks that were read, trained and exported again and again; nodes stand behind what they read."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from lineside_converters.graph.node_names import LONGEST, shorten_names
from lineside_converters.graph.node_order import sort_nodes, tensors_read_by
from tests.converters import nets

LAYER = "/trunk/early/3/conv_pw/Conv"


def renamed(*, long: bool = True) -> onnx.ModelProto:
    """A network whose nodes are named as after so many rounds, all of one layer."""
    model = onnx.load_from_string(nets.convnet(depth=4))
    names: dict[str, str] = {}
    kept = {entry.name for entry in (*model.graph.input, *model.graph.output, *model.graph.initializer)}
    for number, node in enumerate(model.graph.node):
        rounds = LAYER.replace("Conv", node.op_type) * (8 if long else 1)
        node.name = f"/module{rounds}/{number}"
        names.update({output: f"{node.name}_output_0" for output in node.output if output not in kept})
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    del model.graph.value_info[:]
    return model


def answers(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    shape = [side if isinstance(side, int) else 1 for side in entry.shape]
    image = np.random.default_rng(0).random(shape, np.float32)
    return np.asarray(session.run(None, {entry.name: image})[0])


def test_long_names_become_those_of_the_first_network_and_nothing_else_changes() -> None:
    model = renamed()
    before = answers(model)
    shorten_names(model)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(answers(model), before)
    named = [node.name for node in model.graph.node]
    assert len(set(named)) == len(named)
    assert all(len(name) <= LONGEST for node in model.graph.node for name in (node.name, *node.input, *node.output))
    assert [name for name in named if name.startswith(LAYER)][:2] == [LAYER, f"{LAYER}_2"]


def test_short_names_and_a_graph_with_graphs_in_it_stay() -> None:
    short, nested = renamed(long=False), renamed()
    branch = onnx.helper.make_graph([], "branch", [], [])
    nested.graph.node[0].attribute.append(onnx.helper.make_attribute("then_branch", branch))
    for model in (short, nested):
        before = model.SerializeToString()
        shorten_names(model)
        assert model.SerializeToString() == before


def test_no_tensor_gets_the_name_of_another() -> None:
    model = renamed()
    there = f"{LAYER}_output_0"  # what the first convolution's output would become
    (other,) = next(node.output for node in model.graph.node if node.op_type == "Relu")
    for node in model.graph.node:
        node.input[:] = [there if name == other else name for name in node.input]
        node.output[:] = [there if name == other else name for name in node.output]
    before = answers(model)
    shorten_names(model)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(answers(model), before)
    outputs = [name for node in model.graph.node for name in node.output]
    assert len(set(outputs)) == len(outputs)


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
