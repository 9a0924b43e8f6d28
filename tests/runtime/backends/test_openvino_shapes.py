"""OpenVINO on a device that takes fixed shapes only, as Intel's NPU: tried on the CPU, which takes them too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends import openvino_
from lineside_runtime.backends.openvino_ import FixedShapesExecutable, OpenVinoBackend
from lineside_runtime.devices import Device
from lineside_runtime.errors import BadInputFormatError, DeviceError, NoDeviceError
from tests.runtime.onnx_models import FLOAT, graph, scaler

CPU = Device("cpu", name="CPU", handle="CPU")


@pytest.fixture
def doubling(tmp_path: Path) -> Iterator[FixedShapesExecutable]:
    (tmp_path / "m.onnx").write_bytes(scaler(2.0))
    executable = FixedShapesExecutable(openvino.Core(), tmp_path / "m.onnx", CPU, LoadOptions(threads=1, profile=True))
    executable.attach(OpenVinoBackend(), CPU)
    yield executable
    executable.close()


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(4 * count, dtype=np.float32).reshape(count, 4)}


def test_each_shape_is_compiled_once_and_computes_what_the_network_says(
    doubling: FixedShapesExecutable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    reshaped = openvino_._reshaped

    def counted(core: Any, model: Path, shapes: openvino_.Shapes) -> Any:
        made.append(shapes)
        return reshaped(core, model, shapes)

    monkeypatch.setattr(openvino_, "_reshaped", counted)
    for count in (1, 3, 1, 3, 1):
        np.testing.assert_array_equal(doubling.run(rows(count))["y"], 2 * rows(count)["x"])
    assert made == [(("x", (1, 4)),), (("x", (3, 4)),)]
    assert doubling.operators()


def test_the_shapes_that_were_not_used_longest_are_let_go(doubling: FixedShapesExecutable) -> None:
    for count in range(1, 8):
        doubling.run(rows(count))
    assert [shapes[0][1][0] for shapes in doubling._compiled] == [4, 5, 6, 7]
    np.testing.assert_array_equal(doubling.run(rows(1))["y"], 2 * rows(1)["x"])


def test_threads_may_bring_shapes_at_once(doubling: FixedShapesExecutable) -> None:
    right: list[bool] = []

    def call(count: int) -> None:
        answers = [doubling.run(rows(count))["y"] for _ in range(5)]
        right.extend(np.array_equal(answer, 2 * rows(count)["x"]) for answer in answers)

    threads = [threading.Thread(target=call, args=(count,)) for count in (1, 2, 3, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert right == [True] * 20


@pytest.mark.parametrize(
    "inputs", [{"z": np.zeros((1, 4), np.float32)}, {}, {"x": np.zeros((1, 4))}, {"x": np.zeros((1, 5), np.float32)}]
)
def test_wrong_inputs_are_refused_before_anything_is_compiled(
    inputs: dict[str, np.ndarray], doubling: FixedShapesExecutable
) -> None:
    with pytest.raises(BadInputFormatError):
        doubling.run(inputs)
    assert not doubling._compiled


def test_it_is_closed_for_good(doubling: FixedShapesExecutable) -> None:
    doubling.run(rows(1))
    doubling.close()
    with pytest.raises(DeviceError, match="closed"):
        doubling.run(rows(1))


@pytest.mark.parametrize(("shape", "fixed"), [(["n", 4], True), ([2, 4], False)])
def test_only_models_with_free_dimensions_are_compiled_by_shape(
    shape: list[object], fixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import helper

    monkeypatch.setattr(openvino_, "FIXED_SHAPES", frozenset({"cpu"}))
    model = graph([helper.make_node("Relu", ["x"], ["y"])], [("x", FLOAT, shape)], [("y", FLOAT, shape)])
    (tmp_path / "m.onnx").write_bytes(model)
    loaded = OpenVinoBackend().load(tmp_path / "m.onnx", CPU, LoadOptions(threads=1))
    assert isinstance(loaded, FixedShapesExecutable) is fixed
    assert loaded.run({"x": -np.ones((2, 4), np.float32)})["y"].tolist() == [[0] * 4] * 2
    loaded.close()


def test_a_device_that_is_not_there_is_refused_when_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(scaler(2.0))
    with pytest.raises(NoDeviceError):
        OpenVinoBackend().load(tmp_path / "m.onnx", Device("npu", name="NPU", handle="NPU"), LoadOptions())
