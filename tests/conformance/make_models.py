"""Writes the model files of the conformance suite: ``python -m tests.conformance.make_models``.

They are committed, so that somebody with a board needs neither onnx nor torch; a test compares them with what is made.
"""

from __future__ import annotations

from lineside_runtime.conformance.models import FOLDER
from lineside_runtime.conformance.networks import NETWORKS, ConformanceNetwork
from tests.conformance import mnn_files, ncnn_files, onnx_files, tflite_files


def files(network: ConformanceNetwork) -> dict[str, bytes]:
    """Returns the network in every format that is made here, by file name."""
    param, weights = ncnn_files.build(network)
    return {
        f"{network.name}.onnx": onnx_files.build(network),
        f"{network.name}.tflite": tflite_files.build(network),
        f"{network.name}.ncnn.param": param,
        f"{network.name}.ncnn.bin": weights,
        f"{network.name}.mnn": mnn_files.build(network),
    }


def main() -> None:
    for network in NETWORKS:
        for name, data in files(network).items():
            (FOLDER / name).write_bytes(data)
            print(f"{len(data):7d} {name}")


if __name__ == "__main__":
    main()
