"""Our few calls of CUDA, on NVIDIA's real ``libcudart``: found in a wheel, and mapped where there is no driver."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import pytest

from tests.peers.environments import environment

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="NVIDIA has wheels of libcudart for x86_64 and aarch64"
)

SCRIPT = """
import json
from lineside_runtime.backends.cuda import CudaRuntime
from lineside_runtime.errors import LinesideError

def attempt(call):
    try:
        return {"answer": call()}
    except LinesideError as error:
        return {"code": error.code, "text": str(error)}

cuda = CudaRuntime()
print(json.dumps({
    "path": cuda.path, "version": cuda.version, "driver": cuda.driver, "devices": attempt(cuda.devices),
    "allocate": attempt(lambda: cuda.allocate(1000)), "stream": attempt(cuda.stream),
    "use": attempt(lambda: cuda.use(0)),
}))
"""


def test_the_library_is_found_in_nvidias_wheel_and_tells_what_is_missing() -> None:
    """Where CUDA is installed besides, the newer one is taken that its driver can serve."""
    command = [str(environment("cuda12", ["nvidia-cuda-runtime-cu12", "numpy>=1.26"])), "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert int(told["version"].split(".")[0]) >= 12
    assert f"libcudart.so.{told['version'].split('.')[0]}" in told["path"]
    if told["devices"].get("answer"):
        assert told["stream"]["answer"] and told["allocate"]["answer"] and told["driver"]
        return
    assert not Path("/dev/nvidia0").exists(), "there is a GPU, and CUDA doesn't find it"
    for question in ("allocate", "stream", "use"):
        assert told[question]["code"] in (1004, 1005)
        assert "cudaError" in told[question]["text"]
