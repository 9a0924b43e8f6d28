"""Level 1: static INT8 as QuantizeLinear/DequantizeLinear nodes, calibrated on real inputs.

The work is ``onnxruntime.quantization``'s. OpenVINO runs the same file as fast as one of its own quantiser, so that one
file serves both engines.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod as OrtMethod
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader

from lineside_converters.graph.cleanup import does_not_run, first_line, vendor_errors
from lineside_converters.levels import Activation, CalibrationMethod
from lineside_converters.quantization.activation_ranges import largest_values
from lineside_converters.quantization.ort_quantizer import (
    check_float,
    failure_message,
    normalize,
    record_weight_bits,
    silenced,
)
from lineside_runtime.backends.ort.graph_tails import LAYERS
from lineside_runtime.errors import CalibrationError, GraphError
from lineside_runtime.tensors import Array

Feed = Mapping[str, Array]

METHODS: dict[CalibrationMethod, OrtMethod] = {
    "minmax": OrtMethod.MinMax,
    "entropy": OrtMethod.Entropy,
    "percentile": OrtMethod.Percentile,
}
KINDS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators that are worth it; what lies between them follows."""

ACTIVATIONS: dict[Activation, QuantType] = {
    "u8s8": QuantType.QUInt8,
    "u8s7": QuantType.QUInt8,
    "s8s8": QuantType.QInt8,
}

GROWTH_MAX = 30.0
"""Of a tensor's values from the first calibration input to all of them, for entropy calibration: 4000 bins."""

_CAN_KEEP_RANGES = "calibration_cache_path" in inspect.signature(quantize_static).parameters
"""Newer releases of ONNX Runtime can keep the ranges beside the model, so that they are calibrated once."""


class FeedReader(CalibrationDataReader):  # type: ignore[misc]  # the base is untyped
    """Passes the quantizer one input at a time, whatever its size."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = [dict(feed) for feed in feeds]
        self._next, self._end = 0, len(self._feeds)

    def get_next(self) -> dict[str, Array] | None:
        """Returns the next input, or ``None`` at the end of the range."""
        if self._next >= self._end:
            return None
        self._next += 1
        return self._feeds[self._next - 1]

    def __len__(self) -> int:
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Makes ``get_next`` give the inputs from ``start_index`` up to before ``end_index``."""
        self._next, self._end = start_index, min(end_index, len(self._feeds))


def check_feeds(feeds: Sequence[Feed]) -> None:
    """Refuses calibration inputs that would give meaningless ranges.

    Raises:
        CalibrationError: There is none, one is not finite, or all values of all of them are equal.
    """
    if not feeds:
        raise CalibrationError(
            "no calibration frames", action="Give frames, or a data folder, or neither for the line simulator's."
        )
    lowest, highest = np.inf, -np.inf
    for number, feed in enumerate(feeds):
        for name, array in feed.items():
            if not array.size:
                raise CalibrationError(f"calibration frame {number} has nothing in {name!r}", actual=array.shape)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise CalibrationError(f"calibration frame {number} has values that are not finite")
            if array.dtype.kind in "fiu":
                lowest, highest = min(lowest, float(array.min())), max(highest, float(array.max()))
    if lowest == highest:
        raise CalibrationError(
            "all calibration frames are one flat colour", action="Take the frames while the camera sees parts."
        )


def check_growth(model: onnx.ModelProto, feeds: Sequence[Feed]) -> None:
    """Refuses entropy calibration where it would take hours.

    ONNX Runtime's histogram has 128 bins over the first input's values and grows by as many as later inputs need; the
    time that it then searches for grows with the square of their number.

    Raises:
        GraphError: A tensor's values grow too far from the first input to the others.
        CalibrationError: The model doesn't run on the inputs.
    """
    try:
        first, ever = largest_values(model, feeds)
    except vendor_errors() as error:
        raise does_not_run(error) from error
    grown = {name: ever[name] / value for name, value in first.items() if value > 0}
    worst = max(grown, key=grown.__getitem__, default=None)
    if worst is not None and grown[worst] > GROWTH_MAX:
        raise GraphError(
            "entropy calibration would take hours",
            expected=f"values at most {GROWTH_MAX:g} times those of the first calibration input",
            actual=f"{grown[worst]:.0f} times in {worst!r}",
            action="Use another calibration.",
        )


def hash_feeds(feeds: Sequence[Feed]) -> str:
    """Returns the sha256 over name, shape, type and content of all inputs, hexadecimal."""
    digest = hashlib.sha256()
    for feed in feeds:
        for name in sorted(feed):
            digest.update(f"{name}{feed[name].shape}{feed[name].dtype}".encode())
            digest.update(np.ascontiguousarray(feed[name]).tobytes())
    return digest.hexdigest()


def quantize(
    source: Path,
    target: Path,
    *,
    feeds: Sequence[Feed],
    method: CalibrationMethod = "minmax",
    activation: Activation = "u8s8",
    per_channel: bool = True,
    exclude: Collection[str] = (),
    only: Collection[str] = (),
    ranges: Path | None = None,
) -> None:
    """Writes the INT8 form of a cleaned float graph; the same input gives the same bytes.

    Args:
        target: ONNX file to write, with the source's inputs, outputs and metadata.
        feeds: Calibration inputs by name, each with the batch dimension; sizes may differ.
        method: How ranges are taken from what was seen.
        activation: ``u8s8``; ``u8s7`` with weights of 7 bits, which the file then says in its metadata; or ``s8s8``
            with zero points of 0, as TensorRT and Arm's kernels want them.
        only: Names of the only nodes that are quantised; all that can be if empty.
        ranges: File that keeps the ranges from one call to the next with the same source, feeds and method.

    Raises:
        CalibrationError: The inputs can't be calibrated on, or the model doesn't take them.
        GraphError: As for `check_float`, or the quantiser gives up; names the node if it tells.
    """
    check_feeds(feeds)
    model = onnx.load(source)
    check_float(model, KINDS)
    if method == "entropy" and not (ranges and ranges.exists()):
        check_growth(model, feeds)
    half = None if ranges is None or ranges.exists() else ranges.with_suffix(".half")  # it is written in place
    keep: dict[str, Any] = {"calibration_cache_path": half or ranges} if ranges and _CAN_KEEP_RANGES else {}
    try:
        with silenced():
            quantize_static(
                source,
                target,
                FeedReader(feeds),
                quant_format=QuantFormat.QDQ,
                per_channel=per_channel,
                activation_type=ACTIVATIONS[activation],
                weight_type=QuantType.QInt8,
                reduce_range=activation == "u8s7",
                calibrate_method=METHODS[method],
                nodes_to_exclude=sorted({*exclude, *joined_scores(model)}),
                nodes_to_quantize=sorted(only),
                # One frame at a time: frames may differ in size, and their maps need not all be kept.
                extra_options={"CalibStridedMinMax": 1, "ActivationSymmetric": activation == "s8s8"},
                **keep,
            )
    except vendor_errors() as error:
        raise does_not_run(error) from error
    except (ValueError, KeyError, RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise GraphError(failure_message(model, error), actual=first_line(error)) from error
    if ranges is not None and half is not None and half.exists():
        half.replace(ranges)
    record_weight_bits(model, 7 if activation == "u8s7" else None)
    normalize(model, target, marks=("QuantizeLinear",), kinds=" or ".join(KINDS))


def joined_scores(model: onnx.ModelProto) -> frozenset[str]:
    """Returns the names of the nodes behind the last layers of a graph that joins activated scores with boxes.

    One scale for both leaves 2 or 3 of 256 steps to the scores, as in YOLOX's and NanoDet's exports; there is no work
    in these nodes that INT8 would save.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    tail: dict[str, str] = {}
    waiting = [value.name for value in model.graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.op_type in LAYERS or node.name in tail:
            continue
        tail[node.name] = node.op_type
        waiting += node.input
    kinds = set(tail.values())
    return frozenset(tail) if "Concat" in kinds and kinds & {"Exp", "Sigmoid", "Softmax"} else frozenset()


def first_convs(model: onnx.ModelProto, count: int) -> frozenset[str]:
    """Returns the names of the first convolutions, at most one of each eight in the graph."""
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    return frozenset(names[: min(count, len(names) // 8)])
