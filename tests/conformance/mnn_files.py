"""The suite's networks for MNN, by its own converter and quantizer.

Its quantizer's ranges are sums of floats whose last bit depends on the processor, so that ``conv_int8`` isn't made the
same everywhere.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from lineside_converters.formats.mnn import convert_mnn, quantize_mnn
from lineside_runtime.conformance.networks import NETWORKS, ConformanceNetwork
from tests.conformance import onnx_files

FEEDS = 8


def build(network: ConformanceNetwork) -> bytes:
    float_network = next(one for one in NETWORKS if one.name == network.name.removesuffix("_int8"))
    with tempfile.TemporaryDirectory() as folder:
        source, plain, quantized = (Path(folder, name) for name in ("net.onnx", "net.mnn", "int8.mnn"))
        source.write_bytes(onnx_files.build(float_network))
        convert_mnn(source, plain)
        if network.precision != "int8":
            return plain.read_bytes()
        feeds = [network.sample(seed) for seed in range(1000, 1000 + FEEDS)]
        quantize_mnn(plain, quantized, feeds, [spec.name for spec in network.outputs])
        return quantized.read_bytes()
