"""Convert a shipped model to ncnn with pnnx in an environment of its own, as docs/reference/engines.md shows."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ncnn_ import NcnnBackend
from lineside_runtime.backends.ort.backend import OrtBackend
from lineside_runtime.bundle import open_bundle
from tests.peers.environments import ROOT, environment

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the path of pnnx's binary is tried on x86_64")

BUNDLE = ROOT / "models/lineside_models/zoo/surface-12-float"


@pytest.fixture(scope="module")
def param(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = environment("pnnx", ["--no-deps", "pnnx"])  # its Python part wants torch, its binary doesn't
    (binary,) = python.parents[1].glob("lib/python*/site-packages/pnnx/pnnx")
    binary.chmod(0o755)
    folder = tmp_path_factory.mktemp("pnnx")
    shutil.copy(BUNDLE / "onnx-fp32/model.onnx", folder)
    command = [str(binary), "model.onnx", "inputshape=[1,1,224,224]f32", "fp16=0"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    return folder / "model.ncnn.param"


@pytest.mark.parametrize("shape", [(1, 1, 224, 224), (2, 1, 96, 320)])
def test_the_converted_detector_gives_what_onnxruntime_gives(param: Path, shape: tuple[int, ...]) -> None:
    """By position, since pnnx numbers inputs and outputs; at another size than it was converted at as well."""
    manifest = open_bundle(BUNDLE).manifest
    options = LoadOptions(threads=1, inputs=manifest.inputs, outputs=manifest.outputs)
    ours = NcnnBackend().load(param, NcnnBackend().probe()[-1], options)
    right = OrtBackend().load(BUNDLE / "onnx-fp32/model.onnx", OrtBackend().probe()[0], options)
    image = {"image": np.random.default_rng(1).random(shape, dtype=np.float32)}
    expected, answers = right.run(image), ours.run(image)
    assert answers.keys() == expected.keys()
    for name, array in expected.items():
        assert answers[name].shape == array.shape
        assert np.abs(answers[name] - array).max() <= 1e-3 * np.abs(array).max(), name
