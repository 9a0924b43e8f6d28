"""Calls of ONNX Runtime, with fixed and with free shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort.backend import OrtBackend
from lineside_runtime.backends.ort.session import OrtExecutable
from lineside_runtime.errors import BadInputFormatError, EngineError
from tests.runtime.onnx_models import FLOAT, INT64, graph


def load(path: Path, data: bytes, **options: Any) -> OrtExecutable:
    path.write_bytes(data)
    backend = OrtBackend()
    cpu = next(device for device in backend.probe() if device.kind == "cpu")
    executable = backend.load(path, cpu, LoadOptions(threads=1, **options))
    assert isinstance(executable, OrtExecutable)
    return executable


def sum_and_difference(shape: list[int | str], kind: int = FLOAT) -> bytes:
    """``s`` = a + b, ``d`` = a - b."""
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Sub", ["a", "b"], ["d"])]
    return graph(nodes, [("a", kind, shape), ("b", kind, shape)], [("s", kind, shape), ("d", kind, shape)])


@pytest.fixture(params=[[2, 3], ["n", 3]], ids=["fixed", "free"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> OrtExecutable:
    return load(tmp_path / "m.onnx", sum_and_difference(request.param))


def pair(a: float, b: float) -> dict[str, Any]:
    return {"a": np.full((2, 3), a, np.float32), "b": np.full((2, 3), b, np.float32)}


def test_it_does_not_keep_the_callers_arrays(both: OrtExecutable) -> None:
    inputs = pair(3, 1)
    outputs = both.run(inputs)
    inputs["a"][:] = 100
    assert outputs["s"][0, 0] == 4
    assert both.run(inputs)["s"][0, 0] == 101


def test_a_model_without_inputs_runs(tmp_path: Path) -> None:
    value = helper.make_tensor("v", FLOAT, [2], [1, 2])
    model = graph([helper.make_node("Constant", [], ["y"], value=value)], [], [("y", FLOAT, [2])])
    executable = load(tmp_path / "m.onnx", model)
    assert executable.run({})["y"].tolist() == [1, 2]


def test_an_input_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    """An initializer that is also an input: the caller may give it, and need not."""
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        [helper.make_node("Mul", ["x", "f"], ["y"])],
        "test",
        [value("x", FLOAT, [2]), value("f", FLOAT, [2])],
        [value("y", FLOAT, [2])],
        [helper.make_tensor("f", FLOAT, [2], [3, 3])],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    executable = load(tmp_path / "m.onnx", model.SerializeToString())
    x, f = np.ones(2, np.float32), np.full(2, 5, np.float32)
    assert executable.run({"x": x})["y"].tolist() == [3, 3]
    assert executable.run({"x": x, "f": f})["y"].tolist() == [5, 5]
    with pytest.raises(BadInputFormatError):
        executable.run({"f": f})


def test_a_call_that_fails_inside_the_graph_spoils_no_later_one(tmp_path: Path) -> None:
    """The values decide whether this graph's shapes fit, though all of them are declared as fixed."""
    model = graph(
        [helper.make_node("Gather", ["x", "i"], ["y"])], [("x", FLOAT, [3]), ("i", INT64, [2])], [("y", FLOAT, [2])]
    )
    executable = load(tmp_path / "m.onnx", model)
    x = np.array([5, 6, 7], np.float32)
    for _ in range(3):
        with pytest.raises((EngineError, BadInputFormatError)):
            executable.run({"x": x, "i": np.array([0, 3])})
        assert executable.run({"x": x, "i": np.array([2, 0])})["y"].tolist() == [7, 5]
