"""ONNX Runtime's plug-in for WebGPU, on Mesa's Vulkan driver for CPUs: the way that it takes to a GPU, without one.

In an environment of its own, so that the others' tests see the plain package only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.peers.environments import environment
from tests.system.provider_trial import X, try_provider

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the plug-in's wheels want Python 3.11")

ALLOWED = {"ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1"}


@pytest.fixture(scope="module")
def python() -> Path:
    if not list(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json")):
        pytest.skip("no Vulkan driver for CPUs here, install mesa-vulkan-drivers")
    return environment("ort-webgpu", ["onnxruntime>=1.24,<2", "onnxruntime-ep-webgpu"])


@pytest.fixture(scope="module")
def told(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return try_provider(python, tmp_path_factory.mktemp("ort"), "WebGpu", "WebGpuExecutionProvider?7", **ALLOWED)


def test_it_is_a_gpu_that_counts_as_emulated(python: Path, told: Any) -> None:
    (one,) = told["tried"].values()
    assert one["device"] == "gpu:0"
    code = "from lineside_runtime.backends.ort.providers import devices; print([d.emulated for d in devices()])"
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, env={**os.environ, **ALLOWED}, check=True
    )
    assert done.stdout.splitlines()[-1] == "[False, True]"


def test_without_the_variable_it_offers_nothing_where_there_is_no_gpu(python: Path) -> None:
    if list(Path("/sys/class/drm").glob("card*/device/vendor")):
        pytest.skip("there is a GPU here")
    code = "from lineside_runtime.backends.ort.providers import devices; print([str(d) for d in devices()])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['cpu:0']"


def test_it_runs_a_model_and_tells_what_it_leaves_to_the_cpu(told: Any) -> None:
    (one,) = told["tried"].values()
    assert one["whole"]["shortfall"] == "" and np.allclose(one["whole"]["answer"], -np.maximum(X, 0), atol=1e-5)
    assert "Det ×1 of" in one["part"]["shortfall"]
    assert one["refused"]["code"] == 1011


def test_it_conforms_as_every_engine_must(python: Path) -> None:
    command = [str(python), "-m", "lineside", "conformance", "ort", "--device", "gpu:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, **ALLOWED})
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "ort/gpu:0 conforms" in done.stdout


SERVE = """
import json, sys
import numpy as np
from lineside_runtime.bundle import open_bundle
from lineside_runtime.config import Config
from lineside_runtime.planning import AS_CONFIGURED, ServingPlan
from lineside_runtime.serving.candidates import undeclared_candidates, undeclared_names
from lineside_runtime.session import Session

bundle, config = open_bundle(sys.argv[1]), Config(engines=("ort",), threads=1, variant="onnx-int8")
names = undeclared_names(bundle.manifest, config)
found = [str(one) for one in undeclared_candidates(bundle.manifest, config)]
frame, norm = np.random.default_rng(1).random((1, 1, 64, 64), np.float32), np.linalg.norm
answers = {}
for plan in (AS_CONFIGURED, ServingPlan(kind="device", devices=("ort/gpu:0",), threads=1)):
    with Session(bundle, config, plan=plan) as session:
        answer = session.infer(frame)
        answers[answer.used_device] = answer.outputs
cpu, gpu = answers["ort/cpu:0"], answers["ort/gpu:0"]
cosine = {name: float(np.vdot(cpu[name], gpu[name]) / norm(cpu[name]) / norm(gpu[name])) for name in cpu}
print(json.dumps({"names": names, "found": found, "cosine": cosine}))
"""


def test_a_shipped_bundle_for_cpus_serves_on_it_by_a_plan(python: Path) -> None:
    bundle = Path(__file__).parents[2] / "models/lineside_models/zoo/surface-12"
    done = subprocess.run(
        [python, "-c", SERVE, bundle], capture_output=True, text=True, timeout=300, env={**os.environ, **ALLOWED}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["names"] == told["found"] == ["ort/gpu:0"]
    assert min(told["cosine"].values()) > 0.98, told["cosine"]  # the least that the bundle allows
