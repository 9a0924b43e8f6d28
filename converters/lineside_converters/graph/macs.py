"""Count a model's multiplications by node, from the shapes that one real input gives.

Shapes are measured and not inferred: an export whose shapes are computed in the graph, as every text encoder's are, has
few that could be inferred.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import onnx
import onnxruntime

from lineside_converters.graph.cleanup import does_not_run, vendor_errors
from lineside_runtime.tensors import Array

Shape = tuple[int, ...]

_SUFFIX = "//lineside-shape"


@dataclasses.dataclass(frozen=True, slots=True)
class NodeMacs:
    """The multiply-accumulates of one node for one input.

    Attributes:
        kind: Its operator, such as ``Conv``.
        weights: Whether its second input is constant: a layer, and not a product of two activations.
    """

    name: str
    kind: str
    macs: int
    weights: bool


def _conv(inputs: Sequence[Shape], output: Shape) -> int:
    return math.prod(output) * math.prod(inputs[1][1:])


def _conv_transpose(inputs: Sequence[Shape], output: Shape) -> int:
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _matmul(inputs: Sequence[Shape], output: Shape) -> int:
    return math.prod(output) * inputs[0][-1]


def _gemm(inputs: Sequence[Shape], output: Shape) -> int:
    return output[0] * math.prod(inputs[1])


def _recurrent(inputs: Sequence[Shape], output: Shape) -> int:
    steps, batch = inputs[0][:2]
    return steps * batch * (math.prod(inputs[1]) + math.prod(inputs[2]))


_COUNTED: dict[str, Callable[[Sequence[Shape], Shape], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
"""Operators that are counted; everything else is small beside them. Those inside an If or Loop are not seen."""


def count_macs(model: onnx.ModelProto, feed: Mapping[str, Array]) -> list[NodeMacs]:
    """Counts the multiply-accumulates of every convolution, matrix product and recurrent layer.

    Args:
        model: A graph whose nodes have names.
        feed: One input, by input name.

    Returns:
        One a node, in the graph's order.

    Raises:
        CalibrationError: The model doesn't run on the input.
    """
    nodes = [node for node in model.graph.node if node.op_type in _COUNTED]
    if not nodes:
        return []
    shapes = _measure(model, feed, {name for node in nodes for name in (*node.input[:3], node.output[0]) if name})
    constant = {tensor.name for tensor in model.graph.initializer}
    constant |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    return [
        NodeMacs(
            name=node.name,
            kind=node.op_type,
            macs=_COUNTED[node.op_type](
                [shapes.get(name, ()) for name in node.input[:3]], shapes.get(node.output[0], ())
            ),
            weights=node.input[1] in constant,
        )
        for node in nodes
    ]


def _measure(model: onnx.ModelProto, feed: Mapping[str, Array], names: set[str]) -> dict[str, Shape]:
    """Runs the model with a Shape node on every named tensor, so that no map is kept or copied."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    ordered = sorted(names)
    for name in ordered:
        probe.graph.node.add(op_type="Shape", input=[name], output=[name + _SUFFIX])
        probe.graph.output.append(onnx.helper.make_tensor_value_info(name + _SUFFIX, onnx.TensorProto.INT64, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    fails: tuple[type[Exception], ...] = (ValueError, *vendor_errors())  # a missing input is a ValueError
    try:
        session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run([name + _SUFFIX for name in ordered], dict(feed))
    except fails as error:
        raise does_not_run(error) from error
    return {name: tuple(int(size) for size in shape) for name, shape in zip(ordered, found, strict=True)}
