"""AMD's package of ONNX Runtime, where there is no ROCm: what it lacks is told, and the CPU answers as itself only."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.peers.environments import environment
from tests.runtime.onnx_models import FLOAT, graph

pytestmark = [
    pytest.mark.skipif(
        platform.machine() != "x86_64" or sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)),
        reason="AMD's package has wheels for x86_64 and Python 3.11 to 3.13",
    ),
    pytest.mark.skipif(Path("/opt/rocm").exists(), reason="there is a ROCm here: run lineside conformance ort instead"),
]

X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ort")
    model = graph([helper.make_node("Relu", ["x"], ["y"])], [("x", FLOAT, [4, 4])], [("y", FLOAT, [4, 4])])
    (folder / "model.onnx").write_bytes(model)
    python = environment("ort-migraphx", ["onnxruntime-migraphx>=1.27,<2"])
    command = [python, Path(__file__).with_name("ort_migraphx.py"), folder / "model.onnx"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)  # ONNX Runtime prints there when it takes the CPU instead


def test_without_a_gpu_the_cpu_is_the_only_device(told: Any) -> None:
    assert "MIGraphXExecutionProvider" in told["available"]
    assert told["devices"] == ["CPUExecutionProvider"]
    assert np.allclose(told["cpu"], np.maximum(X, 0))


def test_a_provider_whose_libraries_are_missing_is_refused_and_not_replaced(told: Any) -> None:
    assert told["gpu"]["code"] == 1004
    assert "libmigraphx_c" in told["gpu"]["text"]


def test_devices_says_which_rocm_it_needs(told: Any) -> None:
    assert told["fits"] is False
    assert "libamdhip64.so" in told["advice"] and "libmigraphx_c.so" in told["advice"]
