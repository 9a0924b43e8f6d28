"""Puts our RKNN backend through the conformance suite, on the vendor's simulator, in the environment that has it.

    python rknn_conformance.py FOLDER [ARGUMENT …]

The simulator runs only what it has just converted, so that loading converts: ``FOLDER/NETWORK.rknn`` stands for the
ONNX file of that name with its batch fixed at one, ``conv_int8`` for ``conv`` quantised by the vendor's converter.
Everything behind loading is the backend's own.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
from rknn.api import RKNN

from lineside.cli import main
from lineside_runtime import registry
from lineside_runtime.backend import Executable, LoadOptions
from lineside_runtime.backends.common.options import refuse
from lineside_runtime.backends.rknn import Reasons, RknnBackend, RknnExecutable, read_rknn
from lineside_runtime.conformance.models import FOLDER as ONNX
from lineside_runtime.conformance.networks import NETWORKS, ConformanceNetwork
from lineside_runtime.devices import Device
from lineside_runtime.errors import UnsupportedModelError


class Simulator(RknnBackend):
    """The vendor's package for the PC in place of the board's."""

    version = "2.5.0"

    def __init__(self) -> None:
        self._root = Path("/")

    def _probe(self) -> list[Device]:
        return [Device("npu", name="RKNN simulator", handle="simulator")]

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        self._expect_here(device)
        refuse(options, self.name, "operator_libraries")
        facts = read_rknn(model)
        toolkit = RKNN(verbose=False)
        convert(toolkit, next(network for network in NETWORKS if network.name == model.stem))
        if toolkit.init_runtime() != 0:
            raise UnsupportedModelError("the simulator does not start")
        return RknnExecutable(toolkit, facts, Reasons(), options.inputs)


@functools.cache
def calibration(network: ConformanceNetwork) -> Path:
    """Writes frames to quantise with, and returns the list of their files."""
    folder = Path(tempfile.mkdtemp())
    lines = []
    for seed in range(20):
        files = [folder / f"{name}-{seed}.npy" for name in network.sample(seed)]
        for file, array in zip(files, network.sample(seed).values(), strict=True):
            np.save(file, array)
        lines.append(" ".join(map(str, files)))
    (folder / "list.txt").write_text("\n".join(lines))
    return folder / "list.txt"


def convert(toolkit: RKNN, network: ConformanceNetwork) -> None:
    int8 = network.precision == "int8"
    shapes = {name: list(array.shape) for name, array in network.sample(0).items()}
    model = ONNX / f"{network.name.removesuffix('_int8')}.onnx"
    for code in (
        toolkit.config(target_platform="rk3588"),
        toolkit.load_onnx(str(model), inputs=list(shapes), input_size_list=list(shapes.values())),
        toolkit.build(do_quantization=int8, dataset=str(calibration(network)) if int8 else None),
    ):
        if code != 0:
            raise SystemExit(f"the converter refuses {network.name}")


def run() -> int:
    folder = Path(sys.argv[1])
    for network in NETWORKS:
        toolkit = RKNN(verbose=False)
        convert(toolkit, network)
        if toolkit.export_rknn(str(folder / f"{network.name}.rknn")) != 0:
            raise SystemExit(f"the converter does not write {network.name}")
        toolkit.release()
    registry._loaded["rknn"] = Simulator()
    return main(["conformance", "rknn", "--models", str(folder), *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(run())
