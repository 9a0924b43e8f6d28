"""Third parties' operators: Microsoft's own library of them for ONNX Runtime, and one of ours compiled for OpenVINO."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnxruntime_extensions
import openvino
import pytest
from onnx import helper

from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, InputNotFoundError, UnsupportedModelError
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec
from tests.peers.programs import find_program
from tests.runtime.onnx_models import FLOAT, graph, make_bundle

X = np.array([[2, 0], [0, -4]], np.float32)
SPECS = ((TensorSpec(name="x", shape=(2, 2)),), (TensorSpec(name="y", shape=(2, 2)),))
SOURCE = Path(__file__).parent / "operators/twice.cpp"


def bundle_with(operator: str, domain: str, folder: Path) -> Bundle:
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    model = graph([node], [("x", FLOAT, [2, 2])], [("y", FLOAT, [2, 2])], domains=[domain])
    return make_bundle(folder, model, SPECS)


@pytest.fixture(scope="session")
def openvino_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Path(openvino.__file__).parent
    libraries = [next((home / "libs").glob(f"{name}.so*")) for name in ("libopenvino", "libopenvino_onnx_frontend")]
    path = tmp_path_factory.mktemp("operators") / "libtwice.so"
    command = [
        find_program("g++", "g++"),
        "-std=c++17",
        "-shared",
        "-fPIC",
        f"-I{home / 'include'}",
        "-o",
        str(path),
        str(SOURCE),
    ]
    subprocess.run([*command, *map(str, libraries)], check=True, capture_output=True, text=True)
    return path


def test_onnxruntime_runs_an_operator_of_somebody_elses(tmp_path: Path) -> None:
    bundle = bundle_with("Inverse", "ai.onnx.contrib", tmp_path / "b")
    library = onnxruntime_extensions.get_library_path()
    with Session(bundle, Config(engines=("ort",), operator_libraries={"ort": (library,)})) as session:
        assert session.predict(X)["y"].tolist() == [[0.5, 0], [0, -0.25]]
    with pytest.raises(UnsupportedModelError, match="Inverse"):
        Session(bundle, Config(engines=("ort",)))


def test_openvino_runs_an_operator_of_somebody_elses(tmp_path: Path, openvino_library: Path) -> None:
    bundle = bundle_with("Twice", "acme", tmp_path / "b")
    libraries = {"openvino": (str(openvino_library),)}
    with Session(bundle, Config(engines=("openvino",), operator_libraries=libraries)) as session:
        np.testing.assert_array_equal(session.predict(X)["y"], 2 * X)
    with pytest.raises(UnsupportedModelError):  # what one model brought is not there for the others
        Session(bundle, Config(engines=("openvino",)))


def test_an_engine_is_given_its_own_libraries_only(tmp_path: Path, openvino_library: Path) -> None:
    """The engine that has the operator takes over from the one that hasn't."""
    bundle = bundle_with("Twice", "acme", tmp_path / "b")
    with Session(bundle, Config(operator_libraries={"openvino": (str(openvino_library),)})) as session:
        assert session.infer(X).used_device == "openvino/cpu:0"
        assert [fallback.device for fallback in session.fallbacks] == ["ort/cpu:0"]


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_a_library_that_is_not_there_is_named(engine: str, tmp_path: Path) -> None:
    bundle = bundle_with("Twice", "acme", tmp_path / "b")
    with pytest.raises(InputNotFoundError, match="liblost"):
        Session(bundle, Config(engines=(engine,), operator_libraries={engine: (str(tmp_path / "liblost.so"),)}))


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_a_file_that_is_no_library_is_refused(engine: str, tmp_path: Path) -> None:
    bundle = bundle_with("Twice", "acme", tmp_path / "b")
    path = tmp_path / "libnone.so"
    path.write_bytes(b"no library")
    with pytest.raises(ConfigError, match="libnone") as caught:
        Session(bundle, Config(engines=(engine,), operator_libraries={engine: (str(path),)}))
    assert "driver" not in str(caught.value)  # the loader's words are those of a missing driver's


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_a_library_without_operators_is_refused(engine: str, tmp_path: Path) -> None:
    bundle = bundle_with("Twice", "acme", tmp_path / "b")
    libc = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libc.so" in line)
    with pytest.raises(ConfigError, match="operator library"):
        Session(bundle, Config(engines=(engine,), operator_libraries={engine: (libc,)}))
