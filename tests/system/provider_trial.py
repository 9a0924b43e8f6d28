"""Trials of an execution provider of ONNX Runtime in an environment of its own, by ``ort_provider.py``."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from tests.runtime.onnx_models import FLOAT, graph

X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
"""What the models are given."""


def try_provider(python: Path, folder: Path, prefix: str, absent: str, **variables: str) -> Any:
    """Returns what ``ort_provider.py`` prints: devices whose names begin so, tried, and one that is not here."""
    (folder / "whole.onnx").write_bytes(_model("Relu", "Neg", shape=[4, 4]))
    (folder / "part.onnx").write_bytes(_model("Exp", "Det", shape=[]))
    script = Path(__file__).with_name("ort_provider.py")
    command = [str(word) for word in (python, script, folder / "whole.onnx", folder / "part.onnx", prefix, absent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])  # ONNX Runtime prints there when it takes the CPU instead


def _model(*operators: str, shape: list[int]) -> bytes:
    names = ["x", *(f"t{number}" for number in range(1, len(operators))), "y"]
    nodes = [helper.make_node(kind, [names[i]], [names[i + 1]]) for i, kind in enumerate(operators)]
    return graph(nodes, [("x", FLOAT, [4, 4])], [("y", FLOAT, shape)])
