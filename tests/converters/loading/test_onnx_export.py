"""Torch to ONNX: what is written computes what the torch model computes, or nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from lineside_converters.loading.onnx_export import OPSET, export_onnx
from lineside_converters.training.detection.bundle_facts import OUTPUTS
from lineside_converters.training.detection.trainer import export_detector
from lineside_models.networks import build
from lineside_runtime.errors import GraphError, ParityGateError

pytestmark = pytest.mark.torch


class Twice(torch.nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image * 2


class SizeBound(torch.nn.Module):
    """Bakes the traced width into the graph."""

    def forward(self, image: Tensor) -> Tensor:
        return (
            image
            + torch.arange(int(image.shape[3]), dtype=torch.float32).reshape(1, 1, 1, -1)[..., :1] * 0
            + int(image.shape[3])
        )


class Unsayable(torch.nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.linalg.eig(image).eigenvalues.real


def export(model: torch.nn.Module, path: Path, **more: Any) -> float:
    options: dict[str, Any] = {
        "example": torch.ones(1, 1, 4, 4),
        "input_name": "image",
        "output_names": ["out"],
        "dynamic_axes": {"image": {0: "batch", 3: "width"}, "out": {0: "batch", 3: "width"}},
    }
    return export_onnx(model, path, **(options | more))


def test_the_file_computes_what_the_model_does_and_carries_its_metadata(tmp_path: Path) -> None:
    assert export(Twice(), tmp_path / "m.onnx", metadata={"who": "test"}, check=[torch.ones(3, 1, 4, 9)]) == 0
    graph = onnx.load(tmp_path / "m.onnx")
    assert {p.key: p.value for p in graph.metadata_props} == {"who": "test"}
    assert [o.version for o in graph.opset_import] == [OPSET]
    session = ort.InferenceSession(tmp_path / "m.onnx")
    assert np.array_equal(
        session.run(None, {"image": np.full((2, 1, 4, 5), 3, np.float32)})[0], np.full((2, 1, 4, 5), 6)
    )


def test_a_graph_right_only_for_the_traced_size_and_one_that_onnx_cannot_express_are_not_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(ParityGateError, match="does not compute") as caught:
        export(SizeBound(), tmp_path / "m.onnx", check=[torch.ones(1, 1, 4, 7)])
    assert caught.value.actual == pytest.approx(3)
    with pytest.raises(GraphError, match="eig"):
        export(Unsayable(), tmp_path / "m.onnx", dynamic_axes={})
    assert list(tmp_path.iterdir()) == []


def test_the_detector_is_exported_with_free_batch_and_size_and_holds_only_what_int8_engines_are_good_at(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model = build("surface_detector_lite0", num_classes=12)
    for parameter in model.parameters():  # no two equal, as in a trained one: equal tensors are shared by Identity
        parameter.data.add_(torch.randn(parameter.shape), alpha=1e-3)
    assert export_detector(model, tmp_path / "float.onnx") <= 1e-3
    session = ort.InferenceSession(tmp_path / "float.onnx")
    assert [o.name for o in session.get_outputs()] == list(OUTPUTS)
    image = np.random.default_rng(0).standard_normal((3, 1, 64, 128)).astype(np.float32)
    with torch.no_grad():
        wanted = model.eval()(torch.from_numpy(image))
    for ours, theirs in zip(session.run(None, {"image": image}), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-3)
    kinds = {node.op_type for node in onnx.load(tmp_path / "float.onnx").graph.node}
    assert kinds <= {"Conv", "Relu", "Clip", "Add", "Resize", "Constant"}
