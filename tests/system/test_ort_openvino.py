"""A second execution provider of ONNX Runtime that really is one: OpenVINO's, on this CPU, by both ways in.

Built into ``onnxruntime-openvino``, and as the plug-in ``onnxruntime-ep-openvino`` beside the plain package; both in
environments of their own, so that the others' tests see the plain package only. It leaves ``Det`` to the CPU.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.peers.environments import environment
from tests.system.provider_trial import X, try_provider

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)),
    reason="OpenVINO's providers are wheels for x86_64 and Python 3.11 to 3.13",
)

BUILT_IN = ["onnxruntime-openvino>=1.23,<2"]
PLUGIN = ["onnxruntime>=1.23,<2", "onnxruntime-ep-openvino"]


def is_intel() -> bool:
    """Whether the processor is Intel's: the plug-in offers no other (``GetSupportedDevices`` compares the vendor)."""
    return "GenuineIntel" in Path("/proc/cpuinfo").read_text()


@pytest.fixture(scope="module", params=["built in", "plug-in"])
def python(request: pytest.FixtureRequest) -> Path:
    if request.param == "plug-in" and not is_intel():
        pytest.skip("the plug-in onnxruntime-ep-openvino offers processors of Intel alone, and this one is another's")
    return environment(*(("ort-openvino", BUILT_IN) if request.param == "built in" else ("ort-plugin", PLUGIN)))


@pytest.fixture(scope="module")
def told(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    absent = "OpenVINOExecutionProvider?device_type=GPU.7"
    return try_provider(python, tmp_path_factory.mktemp("ort"), "OpenVINO", absent)


def test_the_provider_is_a_device_behind_onnxruntimes_own_cpu(told: Any) -> None:
    assert told["devices"][0] == "CPUExecutionProvider"
    assert next(one["device"] for one in told["tried"].values()) == "cpu:1"
    assert not any("AUTO" in handle for handle in told["devices"])


def test_it_runs_a_model_that_it_can_run_whole(told: Any) -> None:
    for one in told["tried"].values():
        assert one["whole"]["shortfall"] == ""
        assert np.allclose(one["whole"]["answer"], -np.maximum(X, 0), atol=1e-2)


def test_what_it_leaves_to_the_cpu_is_told(told: Any) -> None:
    for one in told["tried"].values():
        assert "Det ×1 of" in one["part"]["shortfall"]
        assert np.allclose(one["part"]["answer"], np.linalg.det(np.exp(X)), atol=1e-2)


def test_what_it_would_leave_is_refused_where_the_whole_model_is_asked_for(told: Any) -> None:
    for one in told["tried"].values():
        assert one["refused"]["code"] == 1011
        assert "Det" in one["refused"]["text"]


def test_a_device_that_it_does_not_have_is_an_error_and_not_the_cpu(told: Any) -> None:
    assert told["missing"]["code"] in (1004, 1007)


def test_a_plug_in_and_nothing_else_tells_a_version_of_its_own(python: Path, told: Any) -> None:
    version = told["versions"].get("onnxruntime_ep_openvino", "")
    assert version[:1].isdigit() == (python.parents[1].name == ".venv-ort-plugin")


def test_it_conforms_as_every_engine_must(python: Path) -> None:
    command = [str(python), "-m", "lineside", "conformance", "ort", "--device", "cpu:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ort/cpu:1 conforms" in done.stdout
