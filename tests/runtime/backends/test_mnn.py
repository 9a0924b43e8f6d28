"""What is MNN's own; what every engine must do is in tests/conformance."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.mnn_ import MnnBackend
from lineside_runtime.conformance.models import FOLDER
from lineside_runtime.conformance.networks import NETWORKS
from lineside_runtime.devices import Device
from lineside_runtime.errors import BadInputFormatError, ConfigError, UnsupportedModelError
from lineside_runtime.tensors import TensorSpec

CPU = Device("cpu", name="CPU", handle="cpu")
CONV = next(network for network in NETWORKS if network.name == "conv")


def load(name: str, **options: Any) -> Any:
    return MnnBackend().load(FOLDER / name, CPU, LoadOptions(**{"threads": 1, **options}))


def test_what_the_package_prints_stays_off_stdout() -> None:
    code = f"""
from pathlib import Path
from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.mnn_ import MnnBackend
from lineside_runtime.devices import Device
from lineside_runtime.errors import UnsupportedModelError
backend = MnnBackend()
backend.load(Path({str(FOLDER / "conv.mnn")!r}), Device("cpu", handle="cpu"), LoadOptions(threads=1)).close()
try:
    backend.load(Path({__file__!r}), Device("cpu", handle="cpu"), LoadOptions(threads=1))
except UnsupportedModelError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
    assert "module" in done.stderr.lower(), "why a file is refused is not lost"


def test_without_a_manifest_the_file_tells_the_sizes() -> None:
    executable = load("conv.mnn")
    inputs = CONV.sample(1)
    np.testing.assert_allclose(executable.run(inputs)["map"], CONV.compute(inputs)["map"], atol=1e-4)
    with pytest.raises(BadInputFormatError):
        executable.run(CONV.sample(1, batch=2))


def test_a_manifest_of_another_network_is_refused() -> None:
    other = TensorSpec(name="image", shape=(-1, 3, 64, 64), layout="NCHW")
    with pytest.raises(UnsupportedModelError, match="image"):
        load("conv.mnn", inputs=(other,))
    with pytest.raises(UnsupportedModelError, match="float32"):
        load("conv.mnn", inputs=(TensorSpec(name="image", shape=(-1, 1, 64, 64), dtype="uint8"),))


def test_an_output_of_another_shape_than_the_manifest_says_is_no_answer() -> None:
    wrong = TensorSpec(name="map", shape=(-1, 16, 32, 32), layout="NCHW")
    executable = load("conv.mnn", inputs=CONV.inputs, outputs=(wrong,))
    with pytest.raises(BadInputFormatError, match="another shape"):
        executable.run(CONV.sample(1))


def test_cores_need_one_thread() -> None:
    with pytest.raises(ConfigError, match="cores"):
        load("conv.mnn", threads=2, cores=(0, 1))
