"""No engine reports to its vendor: nothing is written to the home folder, where they keep identifiers and events."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEVICE = """
import sys
from lineside_runtime import registry
from lineside_runtime.system.device_trial import try_device

for name in ("ort", "openvino"):
    if registry.missing(name) is None:
        engine = registry.backend(name)
        assert try_device(engine, engine.probe()[-1]) == ""
assert sys.modules["openvino_telemetry"] is None
"""
HOST = "import lineside_converters.graph.cleanup"  # its first import is onnxruntime


@pytest.mark.parametrize("code", [DEVICE, HOST], ids=["device", "host"])
def test_engines_keep_nothing_for_their_vendors(code: str, tmp_path: Path) -> None:
    names = [name for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ]  # without CI: there they are silent
    kept = {name: os.environ[name] for name in names}
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**kept, "HOME": str(tmp_path), "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
    assert not list(tmp_path.rglob("*"))
