"""Precisions of a model's variants; the one list of them.

Another one is added here, and its maker to `lineside_converters.formats.MAKERS`.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "fp16", "int8"]

FLOAT_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
"""Those that need no calibration; every other one is quantized."""
