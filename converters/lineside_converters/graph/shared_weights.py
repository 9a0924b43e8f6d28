"""Several widths of one network that share their INT8 weights on disk.

A narrower network's weights are the first channels of the widest one's. `align_weights` gives its INT8 form the widest
one's integers, with scales of its own: the factor that its batch norms bring is in the scale. `store_together` then
writes one file of what they share (ONNX external data) and a small graph for each width, in which a ``Slice`` takes the
first channels. ONNX Runtime and OpenVINO compute such a slice once, when they load the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lineside_runtime.files import write_atomic
from lineside_runtime.tensors import Array

WEIGHTS = "weights.bin"
"""File of the weights, beside the graphs."""

APART_BYTES = 64
"""Tensors from this size on are stored in the file of weights, where several graphs have them."""

ALIGNMENT = 4

NEAR = 0.99
"""Least cosine similarity of a weight with the widest network's integers for which it takes them."""


class _Weight(NamedTuple):
    """Quantized weight of one node, with its quantized bias.

    Attributes:
        node: Name of the node that multiplies.
        values: Name of the INT8 tensor.
        bias: Names of the INT32 bias and of its scales; empty without.
    """

    node: str
    values: str
    scale: str
    axis: int
    bias: tuple[str, str] | tuple[()]


def align_weights(narrow: Path, full: Path, target: Path) -> int:
    """Writes a narrower INT8 graph with the integers of the widest one.

    A weight whose channels are not multiples of the widest one's, such as after a change of a batch norm's sign, stays
    as it is.

    Args:
        narrow: QDQ graph, its nodes named as in ``full``.
        full: QDQ graph of the widest network.

    Returns:
        Number of weights that are shared.
    """
    graph, whole = onnx.load(narrow), onnx.load(full)
    ours, theirs = _tensors(graph), _tensors(whole)
    wanted = {each.node: each for each in _weights(whole)}
    shared = 0
    for mine in _weights(graph):
        other = wanted.get(mine.node)
        if other is None or other.axis != mine.axis:
            continue
        own, integers = ours[mine.values], _first(theirs[other.values], ours[mine.values].shape)
        scales = None if integers is None else _fitted(own, ours[mine.scale], integers, mine.axis)
        if integers is None or scales is None:
            continue
        if mine.bias:
            bias, bias_scale = mine.bias
            moved = ours[bias_scale] * (scales / ours[mine.scale])
            ours[bias] = np.rint(ours[bias] * ours[bias_scale] / moved).astype(np.int32)
            ours[bias_scale] = moved.astype(np.float32)
        ours[mine.values], ours[mine.scale] = integers, scales.astype(np.float32)
        shared += 1
    for tensor in graph.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(ours[tensor.name], tensor.name))
    write_atomic(target, graph.SerializeToString())
    return shared


def _tensors(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _weights(model: onnx.ModelProto) -> Iterator[_Weight]:
    """Yields the quantized weights that one node alone uses."""
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for node in model.graph.node:
        found = [_dequantized(makers.get(name), stored) for name in node.input[1:3]]
        if not found or found[0] is None:
            continue
        weight, bias = found[0], found[1] if len(found) > 1 else None
        names = [*weight.input[:2], *(bias.input[:2] if bias is not None else ())]
        if stored[weight.input[0]] == TensorProto.INT8 and all(uses[name] == 1 for name in names):
            axis = next((a.i for a in weight.attribute if a.name == "axis"), 1)
            own = (str(bias.input[0]), str(bias.input[1])) if bias is not None else ()
            yield _Weight(node.name, str(weight.input[0]), str(weight.input[1]), axis, own)


def _dequantized(node: NodeProto | None, stored: Mapping[str, int]) -> NodeProto | None:
    known = node is not None and node.op_type == "DequantizeLinear" and all(n in stored for n in node.input[:2])
    return node if known else None


def _first(values: Array, shape: tuple[int, ...]) -> Array | None:
    """Returns the first elements along each axis; ``None`` if there are too few."""
    if values.ndim != len(shape) or any(have < want for have, want in zip(values.shape, shape, strict=True)):
        return None
    return np.ascontiguousarray(values[tuple(slice(0, size) for size in shape)])


def _fitted(own: Array, scales: Array, integers: Array, axis: int) -> Array | None:
    """Returns the scales by which other integers come nearest to a weight; ``None`` if they are too far from it."""
    if scales.ndim != 1 or len(scales) != own.shape[axis]:
        return None
    rows = np.moveaxis(own, axis, 0).reshape(len(scales), -1).astype(np.float64) * scales[:, None]
    others = np.moveaxis(integers, axis, 0).reshape(len(scales), -1).astype(np.float64)
    products, squares = (rows * others).sum(1), np.square(others).sum(1)
    length = np.sqrt(np.square(rows).sum(1) * squares)
    empty = length == 0
    if not np.all(products[~empty] >= NEAR * length[~empty]):
        return None
    return np.where(empty, scales, products / np.maximum(squares, 1e-12))


class _Store:
    """Content of the file of weights; equal content is stored once, and the beginning of a tensor is part of it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._places: list[tuple[int, bytes]] = []

    def place(self, content: bytes) -> int:
        """Returns the offset of some content, which is added if it is new."""
        for offset, known in self._places:
            if known.startswith(content):
                return offset
        self.data += bytes(-len(self.data) % ALIGNMENT)
        offset = len(self.data)
        self.data += content
        self._places.append((offset, content))
        return offset


def store_together(graphs: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Writes graphs that share one file of weights, `WEIGHTS`, beside them.

    Args:
        graphs: By the name of the file to write, the widest network first; the others as `align_weights` made them.
        folder: An existing folder to write into.

    Returns:
        The new files by their names.
    """
    models = [onnx.load(path) for path in graphs.values()]
    whole, weights = _tensors(models[0]), {each.node: each for each in _weights(models[0])}
    for narrow in models[1:]:
        _slice_weights(narrow, _tensors(narrow), whole, weights)
        _derive_bias_scales(narrow)
        _shorten(narrow)
    for model in models:
        _merge_equal(model)
    store = _Store()
    contents = [[_content(tensor) for tensor in model.graph.initializer] for model in models]
    for number, (model, own) in enumerate(zip(models, contents, strict=True)):
        others = [each for other in (*contents[:number], *contents[number + 1 :]) for each in other]
        for tensor, content in zip(model.graph.initializer, own, strict=True):
            if len(content) >= APART_BYTES and _is_shared(content, others):
                _move_out(tensor, store.place(content), len(content))
    written = {name: folder / name for name in graphs}
    for path, model in zip(written.values(), models, strict=True):
        write_atomic(path, model.SerializeToString())
    write_atomic(folder / WEIGHTS, bytes(store.data))
    return written


def _content(tensor: TensorProto) -> bytes:
    return bytes(numpy_helper.to_array(tensor).tobytes())


def _is_shared(content: bytes, others: Sequence[bytes]) -> bool:
    """Returns whether another graph's tensor, of those that are stored apart, begins with some content or it with it.

    What one graph alone has stays in it: a reference to the file of weights takes about 60 bytes.
    """
    return any(
        len(other) >= APART_BYTES and (other.startswith(content) or content.startswith(other)) for other in others
    )


def _merge_equal(model: onnx.ModelProto) -> None:
    """Keeps one of several equal tensors, such as the scales of activations.

    Zero points of weights stay: ONNX Runtime's exact kernels for x86 without VNNI give a copy of each a name of its
    own, and load no graph in which two layers have the same one.
    """
    graph = model.graph
    made = {name for node in graph.node for name in node.output if node.op_type == "Slice"}
    stored = {tensor.name for tensor in graph.initializer} | made
    apart = {
        node.input[2]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored and len(node.input) > 2
    }
    kept: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    names: dict[str, str] = {}
    for tensor in list(graph.initializer):
        if tensor.name in apart:
            continue
        name = kept.setdefault((tensor.data_type, tuple(tensor.dims), _content(tensor)), tensor.name)
        if name != tensor.name:
            names[tensor.name] = name
            graph.initializer.remove(tensor)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _move_out(tensor: TensorProto, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _slice_weights(
    model: onnx.ModelProto, tensors: Mapping[str, Array], whole: Mapping[str, Array], weights: Mapping[str, _Weight]
) -> None:
    """Replaces the weights that are first channels of the widest network's by slices of those."""
    graph, slices = model.graph, list[NodeProto]()
    for mine in _weights(model):
        other = weights.get(mine.node)
        if other is None:
            continue
        full, own = whole[other.values], tensors[mine.values]
        first = _first(full, own.shape)
        if first is None or not np.array_equal(first, own) or full.tobytes().startswith(own.tobytes()):
            continue  # stored by itself, or as the beginning of the widest one's
        initializer = next(tensor for tensor in graph.initializer if tensor.name == mine.values)
        whole_name, ends, axes = f"{mine.values}_whole", f"{mine.values}_ends", f"{mine.values}_axes"
        cut = [axis for axis, (a, b) in enumerate(zip(full.shape, own.shape, strict=True)) if a != b]
        initializer.CopyFrom(numpy_helper.from_array(full, whole_name))
        for name, content in (
            (f"{mine.values}_starts", [0] * len(cut)),
            (ends, [own.shape[axis] for axis in cut]),
            (axes, cut),
        ):
            graph.initializer.append(numpy_helper.from_array(np.array(content, np.int64), name))
        slices.append(
            helper.make_node("Slice", [whole_name, f"{mine.values}_starts", ends, axes], [mine.values], mine.values)
        )
    for node in reversed(slices):
        graph.node.insert(0, node)


def _derive_bias_scales(model: onnx.ModelProto) -> None:
    """Replaces the scales of biases by the product that they are: the input's scale times the weight's."""
    graph, tensors = model.graph, _tensors(model)
    makers = {name: node for node in graph.node for name in node.output}
    nodes = {node.name: node for node in graph.node}
    products: list[NodeProto] = []
    for mine in _weights(model):
        source = _scale_of(makers.get(nodes[mine.node].input[0]), tensors)
        if not mine.bias or source is None:
            continue
        name = mine.bias[1]
        if np.allclose(tensors[name], tensors[source] * tensors[mine.scale], rtol=1e-5, atol=0):
            graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == name))
            products.append(helper.make_node("Mul", [mine.scale, source], [name], name))
    for node in products:
        graph.node.insert(0, node)


def _scale_of(node: NodeProto | None, tensors: Mapping[str, Array]) -> str | None:
    """Returns the name of the one scale of a dequantized input."""
    if node is None or node.op_type != "DequantizeLinear" or node.input[1] not in tensors:
        return None
    return str(node.input[1]) if tensors[node.input[1]].size == 1 else None


def _shorten(model: onnx.ModelProto) -> None:
    """Gives all values between inputs and outputs short names, and takes the names of the nodes away."""
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {}

    def short(name: str) -> str:
        if not name or name in kept:
            return name
        return names.setdefault(name, f"t{len(names):x}")

    for node in graph.node:
        node.name = ""
        node.doc_string = ""
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    del graph.value_info[:]
