"""ONNX in FP16, for ONNX Runtime on a GPU: half the bytes, and what its matrix units are fast with.

Why beside INT8: of quantised operators ONNX Runtime's CUDA build has QuantizeLinear, DequantizeLinear and MatMulInteger
(https://github.com/microsoft/onnxruntime/blob/main/docs/FAQ.md), so a convolution between them is computed in float
unless TensorRT takes it. Inputs and outputs stay float32, as the manifest says. The conversion is ONNX Runtime's own.

BF16 isn't made: its CUDA kernels have it for Conv from operator set 22 on, and not for Clip, pooling and ConvTranspose
(https://github.com/microsoft/onnxruntime/blob/main/docs/OperatorKernels.md).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import onnx

from lineside_converters.formats import ConversionRequest
from lineside_converters.graph.cleanup import first_line
from lineside_converters.graph.node_order import sort_nodes
from lineside_converters.quantization.activation_ranges import largest_values
from lineside_converters.quantization.static import Feed
from lineside_runtime.errors import GraphError

HOLDS = 65504.0
"""The largest number of FP16."""

HEADROOM = 2.0
"""How much larger than on the calibration frames values may be on the line."""

log = logging.getLogger("lineside.convert")


def make(request: ConversionRequest) -> Path:
    """Writes the cleaned float graph in FP16; nodes whose values FP16 can't hold stay in float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    target = request.folder / "model.onnx"
    model = onnx.load(request.clean)
    large = too_large(model, request.feeds)
    if large:
        log.warning("%s: %d nodes stay in float32, as FP16 can't hold their values: %s", target, len(large), large)
    try:
        half = convert_float_to_float16(model, keep_io_types=True, node_block_list=large)
        OnnxModel(half).remove_cascaded_cast_nodes()  # from one node in float32 to the next, by way of FP16
        sort_nodes(half.graph)  # casts were put at the end
        onnx.checker.check_model(half)
    except (ValueError, RuntimeError, AssertionError, onnx.checker.ValidationError) as error:
        raise GraphError("this graph has no form in FP16", actual=first_line(error)) from error
    onnx.save(half, target)
    return target


def too_large(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[str]:
    """Returns the names of nodes whose inputs or outputs FP16 can't hold, with headroom.

    No gate sees that: ONNX Runtime's CPU computes an FP16 file in float32.
    """
    _, ever = largest_values(model, feeds)
    large = {name for name, value in ever.items() if value * HEADROOM > HOLDS}
    return [node.name for node in model.graph.node if large & {*node.input, *node.output}]
