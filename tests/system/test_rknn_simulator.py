"""Our RKNN executable on Rockchip's own simulator for x86, with files that Rockchip's converter wrote.

It covers: names and shapes read from a real ``.rknn``, the call (order of inputs, layout, types), the answers, wrong
inputs, closing. It doesn't cover loading a ``.rknn`` (the simulator runs only what it has just converted), the driver,
the cores, and quantised models' speed: those need a board and ``lineside conformance rknn``.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineside_runtime.conformance.models import FOLDER
from lineside_runtime.conformance.networks import NETWORKS, TOLERANCE
from tests.peers.environments import environment

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.version_info[:2] not in ((3, 11), (3, 12)),
    reason="rknn-toolkit2 and its simulator are wheels for x86_64 and Python 3.11 or 3.12",
)


@pytest.fixture(scope="module")
def python() -> Path:
    """torch is newer than the 2.4 that the package asks for: it wants it for loading .pt files, which we don't."""
    return environment(
        "rknn",
        ["torch", "numpy<=1.26.4", "protobuf<=4.25.4,>=4.21.6", "onnx==1.17.0", "onnxruntime<1.24", "setuptools<80"],
        [
            "psutil",
            "ruamel.yaml",
            "scipy<1.15",
            "tqdm",
            "opencv-python-headless<4.12",
            "fast-histogram",
            "numpy<=1.26.4",
        ],
        ["--no-deps", "rknn-toolkit2>=2.3,<3"],
    )


@pytest.mark.parametrize("network", [one for one in NETWORKS if one.precision != "int8"], ids=lambda one: one.name)
def test_the_simulator_gives_the_networks_answers(network: Any, python: Path, tmp_path: Path) -> None:
    samples = [network.sample(seed) for seed in range(3)]
    np.savez(
        tmp_path / "in.npz", **{f"{name}-{i}": array for i, one in enumerate(samples) for name, array in one.items()}
    )
    shapes = json.dumps({name: array.shape for name, array in samples[0].items()})
    script = Path(__file__).with_name("rknn_simulator.py")
    command = [python, script, FOLDER / f"{network.name}.onnx", tmp_path / "in.npz", tmp_path, "rk3588", shapes]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])

    assert [name for name, _ in told["inputs"]] == [spec.name for spec in network.inputs]
    assert [name for name, _ in told["outputs"]] == [spec.name for spec in network.outputs]
    assert told["platforms"] == ["rk3588"] and not told["dynamic"]
    for number, inputs in enumerate(samples):
        answer = np.load(tmp_path / f"answer-{number}.npz")
        for name, right in network.compute(inputs).items():
            assert answer[name].dtype == np.float32 and answer[name].shape == right.shape
            error = np.abs(answer[name] - right).max() / np.abs(right).max()
            assert error < TOLERANCE["fp16"], name  # the NPU computes float models in halves
    assert told["wrong"] == {
        "missing": "BadInputFormatError",
        "shape": "BadInputFormatError",
        "type": "BadInputFormatError",
    }
    assert told["closed"] == "DeviceError"


def test_it_conforms_as_every_engine_must_in_floats_and_in_eight_bits(python: Path, tmp_path: Path) -> None:
    command = [python, Path(__file__).with_name("rknn_conformance.py"), tmp_path]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "rknn/npu:0 conforms" in done.stdout
    assert "conv_int8" in done.stdout
