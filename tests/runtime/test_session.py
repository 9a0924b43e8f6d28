from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import lineside
from lineside_runtime.bundle import Bundle
from lineside_runtime.bundle.archive import pack_archive
from lineside_runtime.config import Config
from lineside_runtime.errors import (
    BadInputFormatError,
    BundleFormatError,
    BundleIntegrityError,
    DeviceError,
    IncompatibleBundleError,
    InputNotFoundError,
    LinesideError,
)
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec
from tests.runtime.onnx_models import (
    EATER_SPECS,
    FLOAT,
    INT64,
    RESHAPE_SPECS,
    graph,
    make_bundle,
    memory_eater,
    scaler,
    unhappy_reshape,
)

X = np.ones((1, 4), np.float32)
ONE_THREAD = Config(threads=1, engines=("ort",))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "b", scaler(2.0))


def test_a_session_predicts_and_says_where(bundle: Bundle) -> None:
    with lineside.Session(bundle, lineside.Config()) as session:
        assert session.predict(X)["y"].tolist() == [[2, 2, 2, 2]]
        assert session.predict({"x": X})["y"].tolist() == [[2, 2, 2, 2]]
        assert (session.requested_device, session.used_device) == ("cpu:0", "ort/cpu:0")
        assert (session.fallbacks, session.fallback_count, session.calls, session.rerouted) == ((), 0, 2, 0)
        assert session.manifest.identity == "test@1"
        prediction = session.infer(X)
        assert (prediction.used_device, prediction.bundle) == ("ort/cpu:0", "test@1")
        assert prediction.inference_ms > 0


@pytest.mark.parametrize("as_text", [True, False])
def test_a_bundle_may_be_given_as_a_folder(bundle: Bundle, as_text: bool) -> None:
    with Session(str(bundle.path) if as_text else bundle.path) as session:
        assert session.bundle.digest == bundle.digest


def test_an_archive_is_unpacked_and_its_copy_removed_at_the_end(bundle: Bundle, tmp_path: Path) -> None:
    pack_archive(bundle, tmp_path / "b.lsb")
    with Session(tmp_path / "b.lsb") as session:
        unpacked = session.bundle.path
        assert session.predict(X)["y"].shape == (1, 4)
        assert unpacked.is_dir()
    assert not unpacked.parent.exists()


def test_the_copy_of_an_archive_stays_as_long_as_a_reload_needs_it(bundle: Bundle, tmp_path: Path) -> None:
    pack_archive(make_bundle(tmp_path / "levels", {0: scaler(2.0), 2: scaler(3.0)}), tmp_path / "b.lsb")
    with Session(tmp_path / "b.lsb", ONE_THREAD) as session:
        unpacked = session.bundle.path
        for level, factor in ((2, 3), (0, 2), (2, 3)):
            session.reload(optimization_level=level)
            assert session.predict(X)["y"][0, 0] == factor
        with pytest.raises(IncompatibleBundleError):
            session.reload(optimization_level=1)
        assert unpacked.is_dir()
        session.reload(bundle)
        assert not unpacked.parent.exists()


def test_a_damaged_archive_leaves_no_copy(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.lsb").write_bytes(b"no zip")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with pytest.raises(BundleFormatError):
        Session(tmp_path / "b.lsb")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError):
        Session(tmp_path / "none")
    with pytest.raises(InputNotFoundError):
        Session(tmp_path / "none.lsb")


def test_a_changed_file_is_refused(bundle: Bundle) -> None:
    model = bundle.path / "level0/model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleIntegrityError):
        Session(bundle.path)


def test_a_bundle_that_is_replaced_in_place_is_not_loaded_under_the_old_name(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b", {0: scaler(2.0), 2: scaler(3.0)})
    with Session(tmp_path / "b", ONE_THREAD) as session:
        (tmp_path / "b/level2/model.onnx").write_bytes(scaler(7.0))
        with pytest.raises(BundleIntegrityError):
            session.reload(optimization_level=2)
        (tmp_path / "b/level2/model.onnx").write_bytes(scaler(3.0))  # as it was, at another time
        session.reload(optimization_level=2)
        assert session.predict(X)["y"][0, 0] == 3


def test_a_device_that_finds_another_file_is_passed_over(tmp_path: Path, numpy_engine: ModuleType) -> None:
    make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu", "cpu"))
    with Session(tmp_path / "b", Config(gpu_ratio=1)) as session:
        assert session.used_device == "numpy/npu:0"
        (tmp_path / "b/level0/model.onnx").write_bytes(scaler(7.0))
        numpy_engine.unplugged.add("npu:0")
        with pytest.raises(DeviceError):
            session.predict(X)
        assert {one.code for one in session.fallbacks} >= {BundleIntegrityError.code}


@pytest.mark.parametrize(
    "wrong",
    [
        np.ones((1, 5), np.float32),
        np.ones((1, 4), np.float64),
        np.ones(4, np.float32),
        {"z": X},
        {"x": X, "z": X},
        {},
        {"x": [[1, 2, 3, 4]]},
        [[1, 2, 3, 4]],
        None,
    ],
)
def test_wrong_inputs_are_refused_before_any_device_sees_them(bundle: Bundle, wrong: object) -> None:
    with Session(bundle) as session:
        with pytest.raises(BadInputFormatError) as caught:
            session.predict(wrong)  # type: ignore[arg-type]  # a wrong type on purpose
        assert "x (?, 4) float32" in str(caught.value.expected)
        assert (session.calls, session.fallback_count) == (0, 0)


def test_several_inputs_need_names(tmp_path: Path) -> None:
    with Session(make_bundle(tmp_path / "b", unhappy_reshape(), RESHAPE_SPECS)) as session:
        with pytest.raises(BadInputFormatError, match="several"):
            session.predict(np.ones(6, np.float32))
        with pytest.raises(BadInputFormatError):
            session.predict({"x": np.ones(6, np.float32)})


def test_the_customers_way_on(tmp_path: Path) -> None:
    """The two errors that the customer's program handles, met in earnest."""
    from onnx import helper

    frugal = graph(
        [helper.make_node("Cast", ["s"], ["f"], to=FLOAT), helper.make_node("ReduceSum", ["f"], ["y"], keepdims=0)],
        [("s", INT64, [1])],
        [("y", FLOAT, [])],
    )
    bundle = make_bundle(tmp_path / "b", {1: memory_eater(), 2: frugal}, EATER_SPECS)
    codes = []
    inputs = np.array([float(1 << 42)])
    with lineside.Session(bundle, lineside.Config(engines=("ort",))) as session:
        while True:
            try:
                result = session.predict(inputs)
                break
            except lineside.LinesideError as error:
                codes.append(error.code)
                if error.code == 1001:
                    session.reload(optimization_level=2)
                elif error.code == 2003:
                    inputs = inputs.astype(np.int64)
        assert session.variant == "level2"
    assert codes == [2003, 1001]
    assert result["y"] == 1 << 42


def test_reload_takes_another_bundle_or_level_and_none_is_the_best(tmp_path: Path) -> None:
    first = make_bundle(tmp_path / "a", {0: scaler(1.0), 2: scaler(3.0)})
    second = make_bundle(tmp_path / "b", scaler(5.0), version="2")
    with Session(first) as session:
        session.reload(optimization_level=2)
        assert session.predict(X)["y"][0, 0] == 3
        session.reload()
        assert session.predict(X)["y"][0, 0] == 1
        session.reload(second.path)
        assert session.infer(X).bundle == "test@2"


def test_a_failed_reload_leaves_the_old_one_running(bundle: Bundle, tmp_path: Path) -> None:
    broken = make_bundle(tmp_path / "broken", b"no model", version="2")
    with Session(bundle) as session:
        with pytest.raises(IncompatibleBundleError) as caught:
            session.reload(optimization_level=3)
        assert caught.value.expected == "one of [0]"
        with pytest.raises(LinesideError):
            session.reload(broken)
        assert session.infer(X).bundle == "test@1"


def await_calls(session: Session, count: int) -> None:
    deadline = time.monotonic() + 30
    pause = threading.Event()
    while session.calls < count:
        assert time.monotonic() < deadline, "no more calls are answered"
        pause.wait(0.001)


def test_reload_under_load_loses_and_mixes_nothing(tmp_path: Path, numpy_engine: ModuleType) -> None:
    """Eight threads predict while the bundle is swapped sixteen times; each answer is that of the bundle it names."""
    factors = {"test@1": 2.0, "test@2": 3.0}
    bundles = [
        make_bundle(tmp_path / "a", scaler(2.0), device_kinds=("gpu", "cpu")),
        make_bundle(tmp_path / "b", scaler(3.0), device_kinds=("gpu", "cpu"), version="2"),
    ]
    stop = threading.Event()
    problems: list[object] = []
    seen: set[tuple[str, str]] = set()
    counts = [0] * 8

    with Session(bundles[0], Config(engines=("numpy", "ort"))) as session:

        def work(number: int) -> None:
            x = np.full((1, 4), number + 1, np.float32)
            try:
                while not stop.is_set():
                    answer = session.infer(x)
                    seen.add((answer.bundle, answer.used_device))
                    counts[number] += 1
                    if answer.outputs["y"][0, 0] != factors[answer.bundle] * (number + 1) or answer.fell_back:
                        problems.append(answer)
            except LinesideError as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for turn in range(16):
            session.reload(bundles[(turn + 1) % 2])
            await_calls(session, session.calls + 20)
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
        assert not problems
        assert all(counts)
        assert session.calls == sum(counts)
        assert seen == {(bundle, device) for bundle in factors for device in ("numpy/gpu:0", "ort/cpu:0")}
        # of all that were loaded only the present one is still open
        assert len(numpy_engine.open_executables) <= 1
    assert not numpy_engine.open_executables


def test_devices_that_fail_under_load_lose_no_call(tmp_path: Path, numpy_engine: ModuleType) -> None:
    bundle = make_bundle(tmp_path / "a", scaler(2.0), device_kinds=("npu", "gpu", "cpu"))
    problems: list[object] = []
    done = threading.Barrier(5)

    with Session(bundle, Config(gpu_ratio=1.0)) as session:

        def work() -> None:
            try:
                answers = [session.predict(X)["y"][0, 0] for _ in range(300)]
                problems.extend(answer for answer in answers if answer != 2)
            except LinesideError as error:
                problems.append(error)
            finally:
                done.wait(timeout=60)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        numpy_engine.unplugged.add("gpu:0")
        numpy_engine.unplugged.add("npu:0")
        done.wait(timeout=60)
        for thread in threads:
            thread.join()
        assert not problems
        assert session.calls == 1200


def test_a_pinned_bundle_stays_while_another_takes_over(bundle: Bundle, tmp_path: Path) -> None:
    second = make_bundle(tmp_path / "second", scaler(3.0), version="2")
    with Session(bundle) as session:
        with session.pinned() as pinned:
            session.reload(second)
            assert session.manifest.version == "2"
            assert pinned.manifest.version == "1"
            assert pinned.infer(X).bundle == "test@1"
        assert session.infer(X).bundle == "test@2"


def test_closing_waits_for_the_last_holder(bundle: Bundle) -> None:
    session = Session(bundle)
    with session.pinned() as pinned:
        session.close()
        assert pinned.infer(X).outputs["y"].shape == (1, 4)
    with pytest.raises(LinesideError, match="closed"):
        session.reload()


def test_a_closed_session_is_freed_without_a_search_for_circles(bundle: Bundle) -> None:
    collecting = gc.isenabled()
    gc.disable()
    try:
        with Session(bundle) as session:
            session.predict(X)
        kept = weakref.ref(session)
        del session
        assert kept() is None
    finally:
        if collecting:
            gc.enable()


def test_warming_up_runs_a_frame_of_zeros_and_counts_nothing(bundle: Bundle) -> None:
    with Session(bundle) as session:
        prediction = session.warm_up()
        assert prediction.outputs["y"].tolist() == [[0, 0, 0, 0]]
        assert (prediction.used_device, session.calls, session.rerouted) == ("ort/cpu:0", 0, 0)
    with pytest.raises(LinesideError, match="closed"):
        session.warm_up()


MEMORY_SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from lineside import Config, Session

def resident_kb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

path, engine, cycles, warm = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
config = Config(threads=1, engines=(engine,))
x = np.ones((1, 64, 64), np.float32)
lasting = Session(path, config)
seen = []
for cycle in range(cycles):
    with Session(path, config) as session:
        session.predict(x)
    lasting.reload()
    lasting.predict(x)
    if cycle >= warm:
        seen.append(resident_kb())
print(json.dumps([seen[0], seen[-1]]))
"""


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_loading_and_unloading_leaves_nothing_behind(engine: str, tmp_path: Path) -> None:
    """Each cycle loads 8 MB of weights twice: of nine that are kept 144 MB would remain."""
    from onnx import helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((512, 64, 64), np.float32) * 0.5, "w")
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weights),
        helper.make_node("Mul", ["x", "w"], ["t"]),
        helper.make_node("ReduceSum", ["t"], ["y"], keepdims=0),
    ]
    model = graph(nodes, [("x", FLOAT, [1, 64, 64])], [("y", FLOAT, [])])
    specs = ((TensorSpec(name="x", shape=(1, 64, 64)),), (TensorSpec(name="y", shape=()),))
    bundle = make_bundle(tmp_path / "b", model, specs)
    command = [sys.executable, "-c", MEMORY_SCRIPT, str(bundle.path), engine, "17", "7"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    first_kb, last_kb = json.loads(run.stdout)
    assert last_kb - first_kb < 32 * 1024


def test_a_gpu_ratio_on_a_box_without_a_gpu_is_said(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with lineside.Session(bundle, lineside.Config(gpu_ratio=0.6, engines=("ort",))) as session:
        assert session.unused_settings == ("gpu_ratio = 0.6 has no effect: no GPU here runs this model",)
    (said,) = [record.getMessage() for record in caplog.records if "gpu_ratio" in record.getMessage()]
    assert said == "test@1: gpu_ratio = 0.6 has no effect: no GPU here runs this model"
    caplog.clear()
    with lineside.Session(bundle, ONE_THREAD):
        assert not [record for record in caplog.records if "gpu_ratio" in record.getMessage()]  # nobody asked for one
