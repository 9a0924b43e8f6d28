"""Level 1: static INT8 as QuantizeLinear/DequantizeLinear nodes, calibrated on frames.

The work is ``onnxruntime.quantization``'s. OpenVINO runs the same file as fast as one of its own quantiser, so that one
file serves both engines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod as OrtMethod
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader

from lineside_converters.compress.cleanup import first_line, vendor_errors
from lineside_converters.compress.quantiser import blame, quiet, tidy
from lineside_converters.recipes import CalibrationMethod
from lineside_runtime.errors import CalibrationError, GraphError
from lineside_runtime.tensors import Array

METHODS: dict[CalibrationMethod, OrtMethod] = {
    "minmax": OrtMethod.MinMax,
    "entropy": OrtMethod.Entropy,
    "percentile": OrtMethod.Percentile,
}


class FrameReader(CalibrationDataReader):  # type: ignore[misc]  # the base is untyped
    """Gives the quantiser one prepared frame at a time, whatever its size."""

    def __init__(self, input_name: str, tensors: Sequence[Array]) -> None:
        """Holds the tensors.

        Args:
            input_name: Of the graph.
            tensors: Each one frame, with the batch dimension; sizes may differ.
        """
        self._feeds = [{input_name: tensor} for tensor in tensors]
        self._next, self._end = 0, len(self._feeds)

    def get_next(self) -> dict[str, Array] | None:
        """Returns the next feed, or ``None`` at the end of the range."""
        if self._next >= self._end:
            return None
        self._next += 1
        return self._feeds[self._next - 1]

    def __len__(self) -> int:
        """Returns how many frames there are."""
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Makes ``get_next`` give the frames from ``start_index`` up to before ``end_index``."""
        self._next, self._end = start_index, min(end_index, len(self._feeds))


def check_tensors(tensors: Sequence[Array]) -> None:
    """Refuses a calibration set that would give nonsense ranges.

    Args:
        tensors: The prepared frames.

    Raises:
        CalibrationError: There is none, one is not finite, or all pixels of all frames are equal.
    """
    if not tensors:
        raise CalibrationError(
            "no calibration frames", action="Give frames, or a data folder, or neither for the line simulator's."
        )
    for number, tensor in enumerate(tensors):
        if not np.isfinite(tensor).all():
            raise CalibrationError(f"calibration frame {number} has values that are not finite")
    if max(float(tensor.max()) for tensor in tensors) == min(float(tensor.min()) for tensor in tensors):
        raise CalibrationError(
            "all calibration frames are one flat colour", action="Take the frames while the camera sees parts."
        )


def hash_tensors(tensors: Sequence[Array]) -> str:
    """Returns the sha256 over shape, type and content of all tensors, hexadecimal."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.shape}{tensor.dtype}".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def quantize(
    source: Path,
    target: Path,
    *,
    input_name: str,
    tensors: Sequence[Array],
    method: CalibrationMethod = "minmax",
    float_convs: int = 0,
) -> None:
    """Writes the INT8 form of a cleaned float graph; the same input gives the same bytes.

    Args:
        source: What `clean_graph` wrote.
        target: ONNX file to write, with the source's inputs, outputs and metadata.
        input_name: The input that the tensors are for.
        tensors: Prepared calibration frames, each with the batch dimension; sizes may differ.
        method: How ranges are taken from what was seen.
        float_convs: How many of the first convolutions stay in float, of each eight in the graph at most one.

    Raises:
        CalibrationError: The tensors can't be calibrated on, or the model doesn't take them.
        GraphError: Nothing in the graph can be quantised, or the quantiser gives up; names the node if it tells.
    """
    check_tensors(tensors)
    model = onnx.load(source)
    pinned = _first_convs(model, float_convs)
    try:
        with quiet():
            quantize_static(
                source,
                target,
                FrameReader(input_name, tensors),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=METHODS[method],
                nodes_to_exclude=pinned,
                # One frame at a time: frames may differ in size, and their maps need not all be kept.
                extra_options={"CalibStridedMinMax": 1},
            )
    except vendor_errors() as error:
        raise CalibrationError("the model does not run on the calibration frames", actual=first_line(error)) from error
    except (ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise GraphError(blame(model, error), actual=first_line(error)) from error
    tidy(model, target, marks=("QuantizeLinear",), kinds="Conv, MatMul or Gemm")


def _first_convs(model: onnx.ModelProto, count: int) -> list[str]:
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    return names[: min(count, len(names) // 8)]
