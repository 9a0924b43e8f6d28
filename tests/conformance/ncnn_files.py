"""The suite's networks for ncnn: the graph as text, the weights as bytes.

Format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure and the layers' own parameters in
https://github.com/Tencent/ncnn/wiki/operation-param-weight-table
"""

from __future__ import annotations

import struct

import numpy as np

from lineside_runtime.conformance.networks import (
    CHANNELS,
    FACTOR,
    FIRST_BIAS,
    FIRST_WEIGHT,
    SECOND_BIAS,
    SECOND_WEIGHT,
    SIDE,
    ConformanceNetwork,
    Floats,
)
from tests.conformance.quantities import FIRST_MAX, quantized

MAGIC = 7767517
INT8_TAG = 0x000D4B38


def build(network: ConformanceNetwork) -> tuple[bytes, bytes]:
    """Returns the ``.ncnn.param`` and the ``.ncnn.bin``."""
    return {"scale": _scale, "fixed": _scale, "pair": _pair, "conv": _conv, "conv_int8": _conv_int8}[network.name]()


def _scale() -> tuple[bytes, bytes]:
    return _text(["Input x 0 1 x 0=4", f"BinaryOp scale 1 1 x y 0=2 1=1 2={FACTOR}"], blobs=2), b""


def _pair() -> tuple[bytes, bytes]:
    layers = [
        "Input a 0 1 a 0=4",
        "Split split_a 1 2 a a_0 a_1",
        "Input b 0 1 b 0=4",
        "Split split_b 1 2 b b_0 b_1",
        "BinaryOp add 2 1 a_0 b_0 sum 0=0",
        "BinaryOp subtract 2 1 a_1 b_1 difference 0=1",
    ]
    return _text(layers, blobs=8), b""


def _conv() -> tuple[bytes, bytes]:
    layers = _layers("")
    pieces = [_floats(FIRST_WEIGHT), FIRST_BIAS.tobytes(), _floats(SECOND_WEIGHT), SECOND_BIAS.tobytes()]
    return layers, b"".join(pieces)


def _conv_int8() -> tuple[bytes, bytes]:
    pieces: list[bytes] = []
    for weight, bias, largest in ((FIRST_WEIGHT, FIRST_BIAS, 1.0), (SECOND_WEIGHT, SECOND_BIAS, FIRST_MAX)):
        integers, scales = quantized(weight)
        raw = integers.tobytes()
        pieces += [struct.pack("<I", INT8_TAG), raw, bytes(-len(raw) % 4), bias.tobytes()]
        pieces += [(1 / scales).astype(np.float32).tobytes(), struct.pack("<f", 127 / largest)]
    return _layers(" 8=2"), b"".join(pieces)


def _layers(more: str) -> bytes:
    common = f"0={CHANNELS} 1=3 4=1 5=1 9=1"
    return _text(
        [
            f"Input image 0 1 image 0={SIDE} 1={SIDE} 2=1",
            f"Convolution first 1 1 image hidden {common} 6={FIRST_WEIGHT.size}{more}",
            f"Convolution second 1 1 hidden map {common} 6={SECOND_WEIGHT.size}{more}",
        ],
        blobs=3,
    )


def _text(layers: list[str], *, blobs: int) -> bytes:
    return "\n".join([str(MAGIC), f"{len(layers)} {blobs}", *layers, ""]).encode()


def _floats(array: Floats) -> bytes:
    return struct.pack("<I", 0) + array.astype("<f4").tobytes()
