"""AMD's package of ONNX Runtime, where there is no ROCm: what it lacks is told, and the CPU answers as itself only."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.peers.environments import environment
from tests.system.provider_trial import X, try_provider

pytestmark = [
    pytest.mark.skipif(
        platform.machine() != "x86_64" or sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)),
        reason="AMD's package has wheels for x86_64 and Python 3.11 to 3.13",
    ),
    pytest.mark.skipif(Path("/opt/rocm").exists(), reason="there is a ROCm here: run lineside conformance ort instead"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    python = environment("ort-migraphx", ["onnxruntime-migraphx>=1.27,<2"])
    absent = "MIGraphXExecutionProvider?device_id=0"
    return try_provider(python, tmp_path_factory.mktemp("ort"), "", absent)


def test_without_a_gpu_the_cpu_is_the_only_device(told: Any) -> None:
    ((handle, tried),) = told["tried"].items()
    assert handle == "CPUExecutionProvider"
    assert np.allclose(tried["whole"]["answer"], -np.maximum(X, 0))


def test_a_provider_whose_libraries_are_missing_is_refused_and_not_replaced(told: Any) -> None:
    assert told["missing"]["code"] == 1004
    assert "libmigraphx_c" in told["missing"]["text"]


def test_devices_says_which_rocm_it_needs(told: Any) -> None:
    assert told["fits"] is False
    assert "libamdhip64.so" in told["advice"] and "libmigraphx_c.so" in told["advice"]
