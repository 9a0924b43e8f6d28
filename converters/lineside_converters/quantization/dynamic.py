"""Dynamic INT8 for models that are mostly matrix products, such as text encoders.

The weights of matrix products, recurrent layers and embedding tables become INT8; each activation gets its range while
the model runs, so that no calibration can be off. Static ranges cost such models accuracy, as single activations of a
transformer lie far out (Dettmers et al. 2022, arXiv:2208.07339). Convolutions are left alone: ORT's dynamic ones made
networks of photos 3 to 8 times slower than float.

The work is ``onnxruntime.quantization``'s.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from lineside_converters.graph.macs import NodeMacs
from lineside_converters.quantization.ort_quantizer import check_float, failure_message, normalize, silenced
from lineside_runtime.errors import GraphError

PRODUCTS = ("MatMul", "Gemm", "LSTM", "Attention")
"""Operators with weights that ORT runs on INT8 with ranges taken as it goes."""

TABLE = "Gather"
"""An embedding table, half of a small text encoder's bytes; looked up and scaled back to float."""

DOMINATED = 0.5
"""Share of the multiplications from which a model is one of matrix products."""

_MARKS = ("DynamicQuantizeLinear", "DynamicQuantizeLSTM", "QAttention", "DequantizeLinear")


def matrix_share(macs: Sequence[NodeMacs]) -> float:
    """Returns the share of a model's multiplications that dynamic INT8 makes cheaper, 0 to 1."""
    total = sum(node.macs for node in macs)
    cheaper = sum(node.macs for node in macs if node.kind in PRODUCTS and node.weights)
    return cheaper / total if total else 0.0


def is_dominated(macs: Sequence[NodeMacs]) -> bool:
    """Returns whether dynamic INT8 fits a model better than static INT8."""
    return matrix_share(macs) >= DOMINATED


def quantize_products(source: Path, target: Path, *, exclude: Collection[str] = (), table: bool = True) -> None:
    """Writes the dynamic INT8 form of a cleaned float graph; the same input gives the same bytes.

    Args:
        target: ONNX file to write, with the source's inputs, outputs and metadata.
        exclude: Names of nodes that stay in float.
        table: Whether embedding tables become INT8 too.

    Raises:
        GraphError: As for `check_float`, or the quantiser gives up; names the node if it tells.
    """
    model = onnx.load(source)
    check_float(model, [*PRODUCTS, TABLE])
    try:
        with silenced():
            quantize_dynamic(
                source,
                target,
                op_types_to_quantize=[*PRODUCTS, *([TABLE] if table else [])],
                per_channel=True,  # per tensor a MiniLM's sentence embedding had a cosine of 0.975 instead of 0.998
                weight_type=QuantType.QInt8,
                nodes_to_exclude=sorted(exclude),
            )
    except (ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise GraphError(failure_message(model, error), actual=str(error).partition("\n")[0]) from error
    normalize(model, target, marks=_MARKS, kinds="MatMul, Gemm, LSTM or Gather with constant weights")
