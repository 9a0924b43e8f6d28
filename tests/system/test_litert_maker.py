"""The maker of ``.tflite`` files, with its own packages (`lineside[tflite]`, 2 GB) in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.peers.environments import ROOT, environment


def test_a_torch_module_becomes_an_int8_file_that_litert_runs(tmp_path: Path) -> None:
    python = environment("litert-maker", ["--editable", f"{ROOT}[convert,tflite]"])
    script = Path(__file__).with_name("litert_maker.py")
    done = subprocess.run([python, script, tmp_path], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["forms"]["litert-int8"]
    assert found["correlation"] > 0.95
    assert "int8" in found["kinds"]
