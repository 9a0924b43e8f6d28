"""Our RKNN engine on Rockchip's own simulator for x86, with files that Rockchip's converter wrote.

It covers names read from a real ``.rknn``, and what the conformance suite asks of calls, answers, wrong inputs and
closing. It does not cover loading a ``.rknn`` (the simulator runs only what it has just converted), the driver, the
cores, and the speed of quantized models: those need a board and ``lineside conformance rknn``.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lineside_runtime.backends.rknn import read_rknn
from lineside_runtime.conformance.networks import NETWORKS
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


def test_it_conforms_as_every_engine_must_in_floats_and_in_eight_bits(python: Path, tmp_path: Path) -> None:
    command = [python, Path(__file__).with_name("rknn_conformance.py"), tmp_path]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "rknn/npu:0 conforms" in done.stdout
    assert "conv_int8" in done.stdout
    for network in NETWORKS:
        facts = read_rknn(tmp_path / f"{network.name}.rknn")
        assert [name for name, _ in facts.inputs] == [spec.name for spec in network.inputs]
        assert [name for name, _ in facts.outputs] == [spec.name for spec in network.outputs]
        assert facts.platforms == ("rk3588",) and not facts.dynamic
