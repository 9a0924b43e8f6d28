"""What ONNX Runtime and OpenVINO tell of their operators, and on which processor cores they work."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from lineside_runtime import registry
from lineside_runtime.backend import Executable, LoadOptions
from lineside_runtime.backends.openvino_ import OpenVinoBackend
from lineside_runtime.config import Config
from lineside_runtime.devices import Device
from lineside_runtime.errors import ConfigError
from lineside_runtime.session import Session
from lineside_runtime.system.affinity import allowed, on_cores
from tests.runtime.onnx_models import FLOAT, graph, make_bundle, scaler

ENGINES = ["ort", "openvino"]
X = np.ones((1, 4), np.float32)


def convolutions(path: Path, *, count: int = 4) -> Path:
    """Writes some convolutions of an image (1, 16, 64, 64): enough work for threads."""
    weights = np.full((16, 16, 3, 3), 0.01, np.float32)
    nodes = [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights))]
    for i in range(count):
        to = "y" if i == count - 1 else f"t{i}"
        nodes.append(
            helper.make_node("Conv", ["x" if i == 0 else f"t{i - 1}", "w"], [to], f"conv{i}", pads=[1, 1, 1, 1])
        )
    shape = [1, 16, 64, 64]
    path.write_bytes(graph(nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)]))
    return path


def load(engine: str, path: Path, options: LoadOptions) -> Executable:
    backend = registry.backend(engine)
    cpu = next(device for device in backend.probe() if device.kind == "cpu")
    return backend.load(path, cpu, options)


@pytest.fixture
def image() -> Mapping[str, np.ndarray[Any, Any]]:
    return {"x": np.ones((1, 16, 64, 64), np.float32)}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_profile_names_each_operator_with_its_time(engine: str, tmp_path: Path, image: Mapping[str, Any]) -> None:
    executable = load(engine, convolutions(tmp_path / "m.onnx"), LoadOptions(threads=1, profile=True))
    for _ in range(3):
        executable.run(image)
    convs = [one for one in executable.operators() if "conv" in one.kind.lower()]
    assert len(convs) == 4
    assert all(one.calls == 3 and one.mean_us > 0 for one in convs)
    assert executable.operators() == executable.operators()
    executable.close()


def test_a_profile_leaves_no_file(tmp_path: Path, image: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    model = convolutions(tmp_path / "m.onnx")
    asked, unasked = (load("ort", model, LoadOptions(threads=1, profile=True)) for _ in range(2))
    for executable in (asked, unasked):
        executable.run(image)
    assert asked.operators()
    asked.close()
    unasked.close()
    assert list((tmp_path / "temporary").iterdir()) == []


def cores_of_new_threads(before: set[str]) -> set[str]:
    """Returns the cores that the kernel allows to each thread that wasn't there before."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        if task.name not in before:
            lines = (task / "status").read_text().splitlines()
            found |= {line.split()[1] for line in lines if line.startswith("Cpus_allowed_list")}
    return found


def needs_two_cores() -> tuple[int, int]:
    cores = sorted(allowed())
    if len(cores) < 2:
        pytest.skip("there is only one processor core here")
    return cores[0], cores[-1]


def test_onnxruntime_keeps_its_threads_on_the_cores(tmp_path: Path, image: Mapping[str, Any]) -> None:
    _, last = needs_two_cores()
    before = {task.name for task in Path("/proc/self/task").iterdir()}
    executable = load("ort", convolutions(tmp_path / "m.onnx"), LoadOptions(threads=2, cores=(last,)))
    executable.run(image)
    assert cores_of_new_threads(before) == {str(last)}
    executable.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_call_is_kept_on_the_cores_and_the_thread_is_let_go_after_it(
    engine: str, tmp_path: Path, image: Mapping[str, Any]
) -> None:
    """The kernel says on which core the thread ran last; another thread looks while the calls go on."""
    first, last = needs_two_cores()
    whole = allowed()
    executable = load(engine, convolutions(tmp_path / "m.onnx"), LoadOptions(threads=1, cores=(last,)))
    seen: set[int] = set()
    stop, arrived = threading.Event(), threading.Event()
    with on_cores({first}):  # the caller comes from another core

        def watch(stat: Path) -> None:
            while not stop.is_set():
                seen.add(int(stat.read_text().rpartition(")")[2].split()[36]))
                if last in seen:
                    arrived.set()

        watcher = threading.Thread(target=watch, args=(Path(f"/proc/self/task/{threading.get_native_id()}/stat"),))
        with on_cores(whole):
            watcher.start()
        deadline = time.monotonic() + 30
        while not arrived.is_set() and time.monotonic() < deadline:
            executable.run(image)
            assert allowed() == {first}
        stop.set()
        watcher.join(timeout=60)
    assert last in seen
    assert allowed() == whole
    executable.close()


def test_openvino_says_once_that_models_with_other_cores_share_its_threads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, last = needs_two_cores()
    backend, cpu = OpenVinoBackend(), Device("cpu", handle="CPU")
    (tmp_path / "m.onnx").write_bytes(scaler(2.0))
    for cores in ((last,), (last,), None, (last,)):
        backend.load(tmp_path / "m.onnx", cpu, LoadOptions(threads=1, cores=cores)).close()
    (said,) = [record.getMessage() for record in caplog.records if "share their threads" in record.getMessage()]
    assert said.endswith(f"[{last}], all")


def test_a_session_keeps_to_the_cores(tmp_path: Path) -> None:
    _, last = needs_two_cores()
    with Session(make_bundle(tmp_path / "b", scaler(2.0)), Config(engines=("ort",), cores=(last,))) as session:
        assert session.predict(X)["y"].tolist() == [[2, 2, 2, 2]]
        assert allowed() != {last}


@pytest.mark.parametrize("engine", ENGINES)
def test_cores_that_are_not_there_are_refused(engine: str, tmp_path: Path) -> None:
    bundle, before = make_bundle(tmp_path / "b", scaler(2.0)), allowed()
    with pytest.raises(ConfigError, match="cores"):
        Session(bundle, Config(engines=(engine,), cores=(os.cpu_count() or 1,)))
    assert allowed() == before
