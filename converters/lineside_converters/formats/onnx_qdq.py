"""ONNX for ONNX Runtime: the cleaned float graph, or its INT8 form with QuantizeLinear/DequantizeLinear nodes."""

from __future__ import annotations

import shutil
from pathlib import Path

from lineside_converters.formats import Order


def make(order: Order) -> Path:
    """Writes the model; `compress.quantize` has done the work."""
    target = order.folder / "model.onnx"
    shutil.copyfile(order.int8 or order.clean, target)
    return target
