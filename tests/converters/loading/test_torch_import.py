"""Somebody's .pt file: weights are read, and nothing in it is run."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import numpy as np
import onnxruntime as ort
import torch

from lineside_converters.loading.torch_import import import_pt
from lineside_models.labels import LABELS
from lineside_models.networks import build
from lineside_models.vision.model_facts import ModelFacts, from_metadata
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.errors import (
    ConvertError,
    InputNotFoundError,
    MissingExtraError,
    UnsafeModelError,
    UnsupportedModelError,
)

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("surface_detector_lite0", num_classes=len(LABELS)).eval()


class Custom(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def saved(folder: Path, content: object) -> Path:
    path = folder / "model.pt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("wrap", ["state_dict", "model"])
def test_weights_become_an_onnx_file_that_computes_the_same(
    network: torch.nn.Module, tmp_path: Path, wrap: str
) -> None:
    weights = network.state_dict()
    path = saved(tmp_path, {wrap: weights, "epoch": 3})
    exported = import_pt(path)
    assert exported.parent != tmp_path
    tensor = np.random.default_rng(0).normal(0, 1, (1, 1, 96, 128)).astype(np.float32)
    found = ort.InferenceSession(exported, providers=["CPUExecutionProvider"]).run(None, {"image": tensor})
    with torch.no_grad():
        wanted = network(torch.from_numpy(tensor))
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(other, one.numpy(), atol=1e-3)
    facts = from_metadata(read_onnx(exported), "model.pt")
    assert facts.labels == LABELS
    assert facts.preprocess is not None
    assert facts.postprocess is not None


def test_a_detector_of_other_types_does_not_get_our_labels(tmp_path: Path) -> None:
    exported = import_pt(saved(tmp_path, build("surface_detector_lite0", num_classes=3).state_dict()))
    assert from_metadata(read_onnx(exported), "model.pt") == ModelFacts()


def test_a_pickled_module_needs_trust(network: torch.nn.Module, tmp_path: Path) -> None:
    path = saved(tmp_path, network)
    with pytest.raises(UnsafeModelError) as caught:
        import_pt(path)
    assert caught.value.code == 2005
    assert "trust=True (--trust)" in caught.value.action
    assert "safe_globals" not in str(caught.value), "torch's own advice would run the file's code"
    assert import_pt(path, trust=True).is_file()


class Head(torch.nn.Linear):
    """Stands in a pickle under a name of ultralytics' modules."""


def yolo_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    name = "ultralytics.nn.tasks"
    for module in ("ultralytics", "ultralytics.nn", name):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    monkeypatch.setattr(sys.modules[name], "Head", Head, raising=False)
    monkeypatch.setattr(Head, "__module__", name)
    torch.save({"model": Head(2, 2), "epoch": 3}, folder / "best.pt")
    return folder / "best.pt"


def test_a_file_of_ultralytics_is_told_from_its_names_and_left_to_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = yolo_file(tmp_path, monkeypatch)
    with pytest.raises(UnsafeModelError, match="ultralytics") as caught:
        import_pt(path)
    assert "yolo export model=best.pt format=onnx" in caught.value.action
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with monkeypatch.context() as without, pytest.raises(MissingExtraError, match="ultralytics"):
        without.setenv("PATH", str(tmp_path))
        import_pt(path, trust=True)
    program = tmp_path / "yolo"
    program.write_text("#!/bin/sh\necho 'cannot find a tail' >&2\nexit 3\n")
    program.chmod(0o755)
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(ConvertError, match="cannot find a tail"):
        import_pt(path, trust=True)
    assert not list(temporary.iterdir())


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    for path in (tmp_path / "zipped.pt", tmp_path / "bare.pt"):
        content = {"weights": torch.zeros(1), "extra": Evil(marker)}
        if path.stem == "zipped":
            torch.save(content, path)
        else:
            path.write_bytes(pickle.dumps(content))
        with pytest.raises((UnsafeModelError, UnsupportedModelError)):
            import_pt(path)
        assert not marker.exists()


def test_torchscript_and_exported_programs_are_told_and_refused_without_being_opened(tmp_path: Path) -> None:
    scripted, exported = tmp_path / "scripted.pt", tmp_path / "exported.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch would rather have something else made
        torch.jit.save(torch.jit.trace(Custom(), torch.zeros(1, 2)), str(scripted))
        torch.export.save(torch.export.export(Custom(), (torch.zeros(1, 2),)), exported)
    for trust in (False, True):
        with pytest.raises(UnsupportedModelError, match="TorchScript") as caught:
            import_pt(scripted, trust=trust)
        assert "state_dict" in caught.value.action
        with pytest.raises(UnsupportedModelError, match=r"torch\.export"):
            import_pt(exported, trust=trust)


@pytest.mark.parametrize(
    "content",
    [
        {"layer.weight": torch.zeros(2, 2)},
        {"state_dict": {"layer.weight": torch.zeros(2, 2)}},
        torch.zeros(3),
        [1, 2],
        {},
    ],
)
def test_an_unknown_architecture_is_refused_with_the_known_ones(tmp_path: Path, content: object) -> None:
    with pytest.raises(UnsupportedModelError, match="surface_detector_lite0") as caught:
        import_pt(saved(tmp_path, content))
    assert caught.value.code == 2007
    assert "ONNX" in caught.value.action


def test_weights_of_another_shape_are_refused(network: torch.nn.Module, tmp_path: Path) -> None:
    weights = dict(network.state_dict())
    weights["cls_heads.0.2.weight"] = torch.zeros(12, 7, 1, 1)
    with pytest.raises(UnsupportedModelError, match="do not fit"):
        import_pt(saved(tmp_path, weights))


def test_rubbish_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(InputNotFoundError):
        import_pt(path)
    for data in (b"", b"no model", b"PK\x03\x04broken"):
        path.write_bytes(data)
        with pytest.raises((UnsupportedModelError, UnsafeModelError)):
            import_pt(path)
