"""LiteRT's predecessor ``tflite-runtime`` is the same interpreter to us: put through the same suite.

It needs ``numpy<2``, so that it lives in an environment of its own; there is nothing else in it but what ours needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lineside_runtime.backend import LoadOptions
from lineside_runtime.conformance import CHECKS, FOLDER, NETWORKS, title
from lineside_runtime.engine_process.engine import isolated
from tests.peers.environments import environment

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] > (3, 11), reason="tflite-runtime's last release has wheels up to Python 3.11"
)


@pytest.fixture(scope="module")
def python() -> Path:
    return environment("tflite", ["tflite-runtime>=2.14,<3", "numpy<2"])


def conformance(python: Path, *arguments: str) -> Any:
    command = [str(python), "-m", "lineside_runtime.conformance", "litert", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.stdout, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_it_does_what_every_engine_must_do(python: Path) -> None:
    told = conformance(python)
    (report,) = told["reports"]
    assert [one for one in report["outcomes"] if one["verdict"] == "failed"] == []
    assert told["conforms"]
    assert report["version"].startswith("2.14")
    assert "tflite-runtime" in report["device_name"]
    assert [one["check"] for one in report["outcomes"]] == [title(check) for check in CHECKS]
    assert list(report["networks"]) == [network.name for network in NETWORKS]


def test_it_says_that_there_is_something_better(python: Path) -> None:
    script = "from lineside_runtime import registry; print(registry.backend('litert').compatibility().advice)"
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True)
    assert "pip install ai-edge-litert" in done.stdout


def test_it_can_serve_this_process_from_its_own(python: Path) -> None:
    """With ``Config(isolate=("litert=PYTHON",))`` a board keeps numpy 2 for everything else."""
    backend = isolated(f"litert={python}", None)
    try:
        assert backend.package == "tflite-runtime"
        network = next(one for one in NETWORKS if one.name == "conv_int8")
        options = LoadOptions(threads=1, precision="int8", inputs=network.inputs, outputs=network.outputs)
        executable = backend.load(FOLDER / "conv_int8.tflite", backend.probe()[-1], options)
        inputs = network.sample(2)
        right, answer = network.compute(inputs)["map"], executable.run(inputs)["map"]
        assert abs(answer - right).max() < 0.08 * right.max()
        executable.close()
    finally:
        backend.close()
