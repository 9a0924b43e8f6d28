"""Whether this processor's fast INT8 kernels saturate.

x86 without VNNI has one fast instruction for unsigned times signed bytes, and it cuts the sum of two products off at 16
bits. Engines have slower kernels that don't, or are exact where weights have 7 bits: then no such sum can be too large.
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

WEIGHT_BITS_KEY = "lineside.weight_bits"
"""In an ONNX file's metadata: how many bits its INT8 weights use, where those are fewer than 8."""

_X86 = ("x86_64", "amd64")
_MARKS = ("avx512_vnni", "avx_vnni", "avxvnni", "avx_vnni_int8")


@functools.cache
def saturates(machine: str = "", cpuinfo: Path = CPUINFO) -> bool:
    """Returns whether the fast kernels for 8-bit weights give wrong sums here; yes on an x86 of unknown features."""
    if (machine or platform.machine()).lower() not in _X86:
        return False
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return True
    flags = {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}
    return not flags.intersection(_MARKS)
