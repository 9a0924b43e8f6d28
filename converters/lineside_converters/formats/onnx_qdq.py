"""ONNX for ONNX Runtime: the cleaned float graph, or its INT8 form with QuantizeLinear/DequantizeLinear nodes."""

from __future__ import annotations

import shutil
from pathlib import Path

from lineside_converters.formats import ConversionRequest


def make(request: ConversionRequest) -> Path:
    """Copies the quantized or the float file."""
    target = request.folder / "model.onnx"
    shutil.copyfile(request.int8 or request.clean, target)
    return target
