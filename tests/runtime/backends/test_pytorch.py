"""What is torch's own; what every engine must do is in tests/conformance."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lineside_runtime import registry
from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends import pytorch
from lineside_runtime.backends.ort.backend import OrtBackend
from lineside_runtime.backends.pytorch import TorchBackend
from lineside_runtime.conformance.models import FOLDER
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    ConfigError,
    DeviceLostError,
    EngineError,
    EngineMissingError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.system.device_trial import try_device
from tests.peers.programs import find_program
from tests.runtime.onnx_models import FLOAT, graph, openvino_only, scaler, unhappy_reshape

pytestmark = pytest.mark.torch

CPU = Device("cpu", name="CPU", handle="cpu")


def load(path: Path, data: bytes | None = None, **options: Any) -> Any:
    if data is not None:
        path.write_bytes(data)
    return TorchBackend().load(path, CPU, LoadOptions(**options))


def test_every_exception_of_torch_has_a_meaning() -> None:
    own = {name for name, kind in vars(torch).items() if inspect.isclass(kind) and issubclass(kind, BaseException)}
    assert own == set(pytorch.ERRORS)


def test_every_exception_of_torchs_core_is_one_that_is_mapped() -> None:
    mapped = TorchBackend()._vendor_errors()
    found = {name: kind for name, kind in vars(torch._C).items() if inspect.isclass(kind)}
    errors = {name for name, kind in found.items() if issubclass(kind, Exception) and not issubclass(kind, mapped)}
    assert errors == set()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), OutOfDeviceMemoryError),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), DeviceLostError),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), EngineError),
    ],
)
def test_what_the_device_complains_of_is_told_apart(error: Exception, kind: type[LinesideError]) -> None:
    with pytest.raises(kind), TorchBackend()._boundary("run"):
        raise error


def test_nothing_of_torchs_own_formats_is_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (tmp_path / "was_run").touch, ()

    torch.save(Evil(), tmp_path / "m.pt")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Evil()))
    for name in ("m.pt", "m.pkl"):
        with pytest.raises(UnsupportedModelError):
            load(tmp_path / name)
    assert not (tmp_path / "was_run").exists()


def test_an_unknown_operator_is_unsupported_and_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="Swish"):
        load(tmp_path / "m.onnx", openvino_only())


def test_a_failure_inside_the_graph_is_an_engine_error(tmp_path: Path) -> None:
    executable = load(tmp_path / "m.onnx", unhappy_reshape())
    with pytest.raises(EngineError, match="shape"):
        executable.run({"x": np.ones(5, np.float32), "s": np.array([2, 3])})
    assert executable.run({"x": np.ones(6, np.float32), "s": np.array([2, 3])})["y"].shape == (2, 3)


def test_integers_are_checked_like_floats(tmp_path: Path) -> None:
    executable = load(tmp_path / "m.onnx", unhappy_reshape())
    with pytest.raises(BadInputFormatError, match="int64"):
        executable.run({"x": np.ones(6, np.float32), "s": np.array([2, 3], np.int32)})


def test_an_answer_never_shares_memory_with_an_input(tmp_path: Path) -> None:
    data = graph([helper.make_node("Identity", ["x"], ["y"])], [("x", FLOAT, [2])], [("y", FLOAT, [2])])
    x = np.ones(2, np.float32)
    y = load(tmp_path / "m.onnx", data).run({"x": x})["y"]
    x[:] = 7
    assert y.tolist() == [1, 1]


def test_a_graph_whose_outputs_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    split = helper.make_node("Split", ["x"], ["a", "b"], axis=0)
    data = graph([split], [("x", FLOAT, [4])], [("a", FLOAT, [2]), ("b", FLOAT, [2])])
    with pytest.raises(UnsupportedModelError, match="two outputs of one operator"):
        load(tmp_path / "m.onnx", data)
    data = graph([], [("x", FLOAT, [4])], [("x", FLOAT, [4])])
    with pytest.raises(UnsupportedModelError):
        load(tmp_path / "m.onnx", data)


@pytest.mark.parametrize(("low", "high", "dtype"), [(0, 255, np.uint8), (-128, 127, np.int8)])
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantised_operators_give_what_onnxruntime_gives(
    low: int, high: int, dtype: Any, per_channel: bool, tmp_path: Path
) -> None:
    """Rounding halves to even, clipping at both ends, and one scale or one for each channel."""
    scale = np.array([0.5, 0.25, 2.0], np.float32) if per_channel else np.array(0.5, np.float32)
    zero = np.full(scale.shape, (low + high + 1) // 2, dtype)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
    ]
    model = onnx.load_from_string(graph(nodes, [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])]))
    model.graph.initializer.extend([numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    x = np.array([[0.25, 0.75, 1.25], [-0.25, 1e4, -1e4], [3.1, -3.1, 0]], np.float32)
    right = OrtBackend().load(tmp_path / "m.onnx", OrtBackend().probe()[-1], LoadOptions(threads=1)).run({"x": x})
    assert np.array_equal(load(tmp_path / "m.onnx").run({"x": x})["y"], right["y"])


def test_a_quantised_output_keeps_its_type(tmp_path: Path) -> None:
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    model = onnx.load_from_string(graph([node], [("x", FLOAT, [3])], [("q", TensorProto.INT8, [3])]))
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array(0.5, np.float32), "s"), numpy_helper.from_array(np.array(1, np.int8), "z")]
    )
    answer = load(tmp_path / "m.onnx", model.SerializeToString()).run({"x": np.array([0, 1, -200], np.float32)})["q"]
    assert answer.dtype == np.int8
    assert answer.tolist() == [1, 3, -128]


def test_the_int8_bundle_network_gives_what_onnxruntime_gives() -> None:
    x = {"image": np.random.default_rng(3).random((2, 1, 64, 64), dtype=np.float32)}
    right = OrtBackend().load(FOLDER / "conv_int8.onnx", OrtBackend().probe()[-1], LoadOptions(threads=1)).run(x)["map"]
    answer = load(FOLDER / "conv_int8.onnx").run(x)["map"]
    step = float(np.diff(np.unique(right)).min())
    assert np.abs(answer - right).max() <= 1.01 * step  # one rounding of the integer engine's
    assert np.mean(answer != right) < 0.02


def test_all_models_of_a_process_have_the_same_threads(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    one = load(tmp_path / "m.onnx", scaler(1.0), threads=1)
    with pytest.raises(ConfigError, match="one number of threads"):
        load(tmp_path / "m.onnx", threads=2)
    load(tmp_path / "m.onnx", threads=1).close()
    assert torch.get_num_threads() == 1
    one.close()
    assert torch.get_num_threads() == before
    load(tmp_path / "m.onnx", threads=2).close()


def test_the_threads_are_afterwards_what_the_caller_had_set(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (3, 4):
            torch.set_num_threads(threads)
            load(tmp_path / "m.onnx", scaler(1.0), threads=1).close()
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_threads_are_followed_in_whatever_thread_the_call_is_made(tmp_path: Path) -> None:
    executable = load(tmp_path / "m.onnx", scaler(1.0), threads=1)
    seen: list[int] = []

    def call() -> None:
        torch.set_num_threads(2)
        executable.run({"x": np.ones((1, 4), np.float32)})
        seen.append(torch.get_num_threads())

    other = threading.Thread(target=call)
    other.start()
    other.join(60)
    executable.close()
    assert seen == [1]


def test_a_profile_names_the_operators_of_the_file() -> None:
    executable = load(FOLDER / "conv.onnx", threads=1, profile=True)
    for _ in range(3):
        executable.run({"image": np.ones((1, 1, 64, 64), np.float32)})
    times = executable.operators()
    executable.close()
    assert [(one.name, one.kind, one.calls) for one in times] == [
        ("first", "Conv", 3),
        ("first_relu", "Relu", 3),
        ("second", "Conv", 3),
        ("second_relu", "Relu", 3),
    ]


def custom(operator: str, domain: str = "acme") -> bytes:
    nodes = [helper.make_node(operator, ["x"], ["t"], domain=domain, by=-2.5), helper.make_node("Relu", ["t"], ["y"])]
    return graph(nodes, [("x", FLOAT, [2, 2])], [("y", FLOAT, [2, 2])], domains=[domain])


@pytest.fixture(scope="session")
def twist_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that registers ``acme::twist`` with torch, compiled by what torch's wheel brings."""
    home, path = Path(torch.__file__).parent, tmp_path_factory.mktemp("operators") / "libtwist.so"
    source = Path(__file__).parent / "operators/twist.cpp"
    include = ["-DTORCH_ASSERT_ONLY_METHOD_OPERATORS", f"-I{home / 'include'}"]
    linked = [f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10"]
    command = [find_program("g++", "g++"), "-std=c++20", "-shared", "-fPIC", *include, "-o", path, source, *linked]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return path


def test_an_operator_of_a_library_is_called_with_its_attributes(tmp_path: Path, twist_library: Path) -> None:
    x = np.array([[2, 0], [0, -4]], np.float32)
    for name in ("first", "again"):
        loaded = load(tmp_path / f"{name}.onnx", custom("twist"), operator_libraries=(twist_library,))
        assert loaded.run({"x": x})["y"].tolist() == [[0, 0], [0, 10]]
        loaded.close()


@pytest.mark.parametrize(("operator", "domain"), [("untold", "acme"), ("twist", "nobody"), ("from_file", "aten")])
def test_an_operator_of_no_library_is_refused_torchs_own_too(
    operator: str, domain: str, tmp_path: Path, twist_library: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{domain}::{operator}") as caught:
        load(tmp_path / "model.onnx", custom(operator, domain), operator_libraries=(twist_library,))
    assert "operator_libraries" in str(caught.value)


def test_what_one_model_brought_is_not_there_for_the_others(tmp_path: Path, twist_library: Path) -> None:
    load(tmp_path / "first.onnx", custom("twist"), operator_libraries=(twist_library,)).close()
    with pytest.raises(UnsupportedModelError, match="acme::twist"):
        load(tmp_path / "second.onnx", custom("twist"))


@pytest.mark.parametrize("kind", ["text", "without operators"])
def test_a_file_that_is_no_operator_library_is_refused(kind: str, tmp_path: Path) -> None:
    library = tmp_path / "libnone.so"
    library.write_bytes(b"no library")
    if kind != "text":
        lines = Path("/proc/self/maps").read_text().splitlines()
        library = Path(next(line.split()[-1] for line in lines if "/libc.so" in line))
    with pytest.raises(ConfigError, match="operator library"):
        load(tmp_path / "model.onnx", custom("twist"), operator_libraries=(library,))


def test_a_device_is_tried_without_reading_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchBackend, "_load", None)
    assert try_device(TorchBackend(), CPU) == ""
    assert "no such device" in try_device(TorchBackend(), Device("gpu", 7, handle="cuda:7"))


def test_the_engine_is_absent_where_nothing_can_read_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    monkeypatch.setattr(registry, "_loaded", {})
    with pytest.raises(EngineMissingError, match="onnx2torch"):
        registry.backend("torch")


def test_a_broken_torch_mlu_costs_its_devices_only_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch_mlu.py").write_text("raise ImportError('libcnnl.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    backend = TorchBackend()
    assert [str(one) for one in backend.probe()][-1] == "cpu:0"
    found = backend.compatibility()
    assert found.fits is False
    assert "libcnnl" in found.advice and "NEUWARE_HOME" in found.advice
