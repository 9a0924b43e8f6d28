"""Use ``onnxruntime.quantization``: silence its output, read its errors, make its files repeatable."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

import onnx

from lineside_converters.graph.cleanup import PER_CHANNEL_OPSET, opset_of
from lineside_converters.graph.node_order import sort_nodes
from lineside_runtime.errors import GraphError
from lineside_runtime.system.vnni import WEIGHT_BITS_KEY

METADATA_MARK = "onnx.infer"
"""The quantiser's own mark of a prepared graph, which has no place in what is shipped."""


QUANTISED = (
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
)
"""Operators of graphs that somebody quantised before: doing it again would lose accuracy and win nothing."""


def check_float(model: onnx.ModelProto, kinds: Collection[str]) -> None:
    """Refuses a graph in which there is nothing to quantize, before any work is done on it.

    Args:
        kinds: Operators that can be quantised.

    Raises:
        GraphError: It is quantised already, or has no such operator, or its opset is too old and can't be raised.
    """
    for node in model.graph.node:
        if node.op_type in QUANTISED:
            raise GraphError(
                f"the model is quantised already: node {node.name!r} is a {node.op_type}",
                action="Give the float model that it was made of.",
            )
    found = {node.op_type for node in model.graph.node}
    if not found & set(kinds):
        raise GraphError(
            "no node of the graph can be quantised",
            expected=" or ".join(kinds),
            actual=sorted(found),
            action="Use optimization_level=0.",
        )
    if opset_of(model) < PER_CHANNEL_OPSET:
        raise GraphError(
            "the model's opset has no scales by channel",
            expected=f"opset {PER_CHANNEL_OPSET} at least",
            actual=opset_of(model),
            action="Export the model again with a newer opset.",
        )


def failure_message(model: onnx.ModelProto, error: Exception) -> str:
    """Returns a message that names the node whose tensor the quantizer's error names."""
    text = str(error)
    for node in model.graph.node:
        if any(name and name in text for name in (node.name, *node.output)):
            return f"node {node.name!r} ({node.op_type}) cannot be quantised"
    return "the graph cannot be quantised"


def normalize(source: onnx.ModelProto, target: Path, *, marks: Collection[str], kinds: str) -> None:
    """Restores the source's metadata and sorts the graph, so that equal inputs give equal files.

    Args:
        target: What the quantiser wrote; written again.
        marks: Operators of which at least one must be there if anything was quantised.
        kinds: Operators that can be quantised, for the error.

    Raises:
        GraphError: Nothing was quantised.
    """
    model = onnx.load(target)
    if not any(node.op_type in marks for node in model.graph.node):
        found = sorted({node.op_type for node in source.graph.node})
        raise GraphError("no node of the graph can be quantised", expected=kinds, actual=found)
    del model.metadata_props[:]
    for entry in source.metadata_props:
        if entry.key != METADATA_MARK:
            model.metadata_props.add(key=entry.key, value=entry.value)
    sort_nodes(model.graph)
    # Names are given out in the order of a set; sorted, equal inputs give equal files.
    values = sorted(model.graph.value_info, key=lambda value: value.name)
    weights = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    del model.graph.value_info[:], model.graph.initializer[:]
    model.graph.value_info.extend(values)
    model.graph.initializer.extend(weights)
    target.write_bytes(model.SerializeToString(deterministic=True))


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Suppresses the quantizer's output and root log; its errors are raised."""

    def ours(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in record.pathname

    root = logging.getLogger()
    root.addFilter(ours)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeFilter(ours)


def record_weight_bits(model: onnx.ModelProto, bits: int | None) -> None:
    """Writes the bits of INT8 weights into the metadata.

    Args:
        model: Changed in place.
        bits: Fewer than 8; ``None`` takes away what was said of weights that the model no longer has.
    """
    properties = {entry.key: entry.value for entry in model.metadata_props if entry.key != WEIGHT_BITS_KEY}
    onnx.helper.set_model_props(model, properties | ({} if bits is None else {WEIGHT_BITS_KEY: str(bits)}))
