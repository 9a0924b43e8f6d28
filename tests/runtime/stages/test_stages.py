"""Models that are cut into stages: where the stages go, and frames on their way through them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

from lineside_runtime.backend import Executable, LoadOptions
from lineside_runtime.bundle import Bundle, Stage, Variant, write_manifest
from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.config import Config
from lineside_runtime.devices import Device
from lineside_runtime.engine_process import engine as isolation
from lineside_runtime.errors import (
    BadInputFormatError,
    BundleFormatError,
    ConfigError,
    DeadlineExceededError,
    DeviceBusyError,
    DeviceError,
    NoDeviceError,
)
from lineside_runtime.serving.types import Prediction
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec
from tests.peers.waiting import wait_for
from tests.runtime.onnx_models import graph, make_bundle, scaler

FLOAT = TensorProto.FLOAT
ROW = ["n", 4]
EVERYWHERE = ("npu", "gpu", "cpu")
SPLIT_CPU = Config(stage_engines=("ort", "openvino"), threads=1)


def x(value: float) -> np.ndarray[Any, Any]:
    return np.full((2, 4), value, np.float32)


def times(factor: float, source: str, target: str) -> bytes:
    """``target = factor * source``."""
    constant = helper.make_tensor("factor", FLOAT, [1], [factor])
    nodes = [
        helper.make_node("Constant", [], ["f"], value=constant),
        helper.make_node("Mul", [source, "f"], [target]),
    ]
    return graph(nodes, [(source, FLOAT, ROW)], [(target, FLOAT, ROW)])


def row(name: str) -> TensorSpec:
    return TensorSpec(name=name, shape=(-1, 4))


def stage(name: str, file: str, inputs: Sequence[str], outputs: Sequence[str], share: float) -> Stage:
    return Stage(
        name=name,
        file=file,
        inputs=tuple(map(row, inputs)),
        outputs=tuple(map(row, outputs)),
        share=share,
        sample=dict.fromkeys(inputs, (1, 4)),
    )


def cut_bundle(
    folder: Path,
    *,
    kinds: tuple[Any, ...] = ("cpu",),
    shares: tuple[float, float] = (0.6, 0.4),
    requires: dict[str, str] | None = None,
) -> Bundle:
    """``y = 6 x``, whole, and as ``h = 2 x`` and ``y = 3 h``."""
    whole = make_bundle(folder, scaler(6.0), device_kinds=kinds)
    (folder / "pieces").mkdir()
    (folder / "pieces" / "backbone.onnx").write_bytes(times(2.0, "x", "h"))
    (folder / "pieces" / "head.onnx").write_bytes(times(3.0, "h", "y"))
    stages = (
        stage("backbone", "pieces/backbone.onnx", ["x"], ["h"], shares[0]),
        stage("head", "pieces/head.onnx", ["h"], ["y"], shares[1]),
    )
    return with_stages(whole, stages)


def with_stages(whole: Bundle, stages: tuple[Stage, ...]) -> Bundle:
    variant: Variant = msgspec.structs.replace(whole.manifest.variants[0], stages=stages)
    return write_manifest(whole.path, msgspec.structs.replace(whole.manifest, variants=(variant,)))


@pytest.fixture
def cut(tmp_path: Path) -> Bundle:
    return cut_bundle(tmp_path / "cut")


@pytest.fixture
def stage_engine(numpy_engine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The third-party engine, taught the names of a stage's tensors; ``before`` is called with factor and input."""
    load, run = numpy_engine.NumpyBackend._load, numpy_engine.NumpyExecutable._run
    monkeypatch.setattr(numpy_engine, "before", lambda factor, array: None, raising=False)

    def named_load(self: Any, model: Path, device: Device, options: LoadOptions) -> Executable:
        executable: Executable = load(self, model, device, options)
        executable.names = options.inputs[0].name, options.outputs[0].name  # type: ignore[attr-defined]  # the engine of the test has names
        return executable

    def named_run(self: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        source, target = self.names
        numpy_engine.before(float(self._factor[0]), inputs[source])
        return {target: run(self, {"x": inputs[source]})["y"]}

    monkeypatch.setattr(numpy_engine.NumpyBackend, "_load", named_load)
    monkeypatch.setattr(numpy_engine.NumpyExecutable, "_run", named_run)
    yield numpy_engine
    numpy_engine.reset()


@pytest.fixture
def two_devices(tmp_path: Path, stage_engine: ModuleType) -> Bundle:
    """A bundle for the engine's NPU and GPU only."""
    return cut_bundle(tmp_path / "cut", kinds=("npu", "gpu"))


NPU_THEN_GPU = Config(engines=("numpy",), stage_engines=("numpy/npu:0", "numpy/gpu:0"))
BACKBONE, HEAD = 2.0, 3.0


# The format.


def test_stages_stand_in_the_manifest_and_come_back(cut: Bundle) -> None:
    stages = cut.manifest.variants[0].stages
    assert [one.name for one in stages] == ["backbone", "head"]
    assert stages[1].sample == {"h": (1, 4)}


BROKEN: dict[str, Callable[[tuple[Stage, Stage]], tuple[Stage, ...]]] = {
    "one stage alone": lambda both: both[:1],
    "an input that nobody makes": lambda both: (both[0], stage("head", both[1].file, ["g"], ["y"], 0.4)),
    "an output that is missing": lambda both: (both[0], stage("head", both[1].file, ["h"], ["z"], 0.4)),
    "a share above 1": lambda both: (msgspec.structs.replace(both[0], share=1.5), both[1]),
    "two of one name": lambda both: (both[0], msgspec.structs.replace(both[1], name="backbone")),
    "no sample of an input": lambda both: (msgspec.structs.replace(both[0], sample={}), both[1]),
    "a file that is not there": lambda both: (both[0], msgspec.structs.replace(both[1], file="pieces/none.onnx")),
    "the wrong order": lambda both: both[::-1],
}


@pytest.mark.parametrize("how", BROKEN)
def test_stages_that_do_not_fit_are_refused(cut: Bundle, how: str) -> None:
    first, second = cut.manifest.variants[0].stages
    with pytest.raises(BundleFormatError):
        with_stages(cut, BROKEN[how]((first, second)))


# Where the stages go.


def used(bundle: Bundle, config: Config, share: float = 1.0) -> str:
    with Session(bundle, config, compute_share=share) as session:
        prediction = session.infer(x(1))
        np.testing.assert_array_equal(prediction.outputs["y"], x(6))
        assert list(prediction.outputs) == ["y"]
        return prediction.used_device


def test_each_stage_runs_where_the_configuration_says(cut: Bundle) -> None:
    with Session(cut, SPLIT_CPU) as session:
        assert session.used_device == "ort/cpu:0+openvino/cpu:0"
        prediction = session.infer(x(2))
        np.testing.assert_array_equal(prediction.outputs["y"], x(12))
        assert (prediction.requested_device, prediction.used_device) == ("cpu:0+cpu:0", "ort/cpu:0+openvino/cpu:0")
        assert not prediction.fell_back
        assert session.variant == "level0"
        assert (session.calls, session.rerouted) == (1, 0)
        session.warm_up()
    assert used(cut, Config(stage_engines=("openvino/cpu:0", "ort"))) == "openvino/cpu:0+ort/cpu:0"


def test_a_cut_model_runs_whole_where_its_stages_would_share_a_device(cut: Bundle) -> None:
    assert used(cut, Config()) == "ort/cpu:0"
    assert used(cut, Config(engines=("openvino",))) == "openvino/cpu:0"


@pytest.mark.parametrize(
    ("shares", "gpu_ratio", "expected"),
    [
        ((0.6, 0.4), 0.6, "numpy/gpu:0+ort/cpu:0"),
        ((0.3, 0.7), 0.6, "ort/cpu:0+numpy/gpu:0"),
        ((0.6, 0.4), 0.4, "ort/cpu:0+numpy/gpu:0"),
        ((0.6, 0.4), 1.0, "numpy/gpu:0"),
        ((0.6, 0.4), 0.0, "ort/cpu:0"),
    ],
)
def test_gpu_ratio_decides_which_stages_the_gpu_gets(
    tmp_path: Path, stage_engine: ModuleType, shares: tuple[float, float], gpu_ratio: float, expected: str
) -> None:
    bundle = cut_bundle(tmp_path / "cut", kinds=("gpu", "cpu"), shares=shares)
    assert used(bundle, Config(gpu_ratio=gpu_ratio, engines=("numpy", "ort"))) == expected


def test_npu_threshold_gives_small_stages_to_the_npu(tmp_path: Path, stage_engine: ModuleType) -> None:
    bundle = cut_bundle(tmp_path / "cut", kinds=("npu", "gpu"), shares=(0.9, 0.1))
    config = Config(engines=("numpy",), npu_threshold=0.2)
    assert used(bundle, config) == "numpy/gpu:0+numpy/npu:0"
    assert used(bundle, Config(engines=("numpy",), npu_threshold=0.05)) == "numpy/gpu:0"
    assert used(bundle, config, share=0.15) == "numpy/npu:0"  # all of the model is small on a box with others


def test_fastest_measures_each_stage(tmp_path: Path, stage_engine: ModuleType) -> None:
    bundle = cut_bundle(tmp_path / "cut", kinds=("npu", "gpu"))
    stage_engine.slow_s["npu:0"] = 0.02
    assert used(bundle, Config(engines=("numpy",), fallback_strategy="fastest")) == "numpy/gpu:0"


def test_what_does_not_fit_is_told(cut: Bundle) -> None:
    with pytest.raises(ConfigError, match="backbone, head"):
        Session(cut, Config(stage_engines=("ort",)))
    with pytest.raises(ConfigError, match="backbone, head"):
        Session(cut, Config(stage_cores=((0,), (1,), (0,))))
    with pytest.raises(ConfigError, match="stage_cores"):
        Session(cut, Config(stage_cores=((0,), (4095,))))
    with pytest.raises(NoDeviceError, match=r"'head' cannot run on ort/gpu:0; expected ort/cpu:0"):
        Session(cut, Config(stage_engines=("ort", "ort/gpu:0")))


def test_a_bundle_that_is_not_cut_runs_whole_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = make_bundle(tmp_path / "whole", scaler(6.0))
    assert used(bundle, SPLIT_CPU) == "ort/cpu:0"
    assert "not cut into stages" in caplog.text


def test_stages_keep_to_their_cores(tmp_path: Path, stage_engine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = cut_bundle(tmp_path / "cut")
    here = sorted(os.sched_getaffinity(0))
    told: list[Any] = []
    load = stage_engine.NumpyBackend._load

    def noting_load(self: Any, model: Path, device: Device, options: LoadOptions) -> Executable:
        told.append(options.cores)
        executable: Executable = load(self, model, device, options)
        return executable

    monkeypatch.setattr(stage_engine.NumpyBackend, "_load", noting_load)
    monkeypatch.setattr(stage_engine.NumpyBackend, "_probe", lambda self: [Device("cpu", name="numpy")])
    cores = ((here[0],), (here[-1],))
    with Session(bundle, Config(engines=("numpy",), stage_engines=("numpy", "numpy"), stage_cores=cores)) as session:
        np.testing.assert_array_equal(session.predict(x(1))["y"], x(6))
    assert told == [(here[0],), (here[-1],)]
    told.clear()
    with Session(bundle, Config(engines=("ort",), stage_engines=("ort", "ort"), stage_cores=cores)) as session:
        np.testing.assert_array_equal(answer(session.submit(x(1))).outputs["y"], x(6))
    assert sorted(os.sched_getaffinity(0)) == here  # the caller's own thread is as free as before


def skipping(folder: Path) -> Bundle:
    """``a = 2 x``, ``early = 5 a``; then ``h = 3 a``; then ``y = h + x``: a skip from the input to the end."""
    value = helper.make_node
    constants = [
        value("Constant", [], [f"c{n}"], value=helper.make_tensor(f"k{n}", FLOAT, [1], [n])) for n in (2, 3, 5)
    ]
    first = [value("Mul", ["x", "c2"], ["a"]), value("Mul", ["a", "c5"], ["early"])]
    second = [value("Mul", ["a", "c3"], ["h"])]
    third = [value("Add", ["h", "x"], ["y"])]

    def model(nodes: list[Any], inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        used_constants = [one for one in constants if any(one.output[0] in node.input for node in nodes)]
        return graph([*used_constants, *nodes], [(n, FLOAT, ROW) for n in inputs], [(n, FLOAT, ROW) for n in outputs])

    specs = (row("x"),), (row("y"), row("early"))
    whole = make_bundle(folder, model([*first, *second, *third], ["x"], ["y", "early"]), specs)
    pieces = {
        "one": model(first, ["x"], ["a", "early"]),
        "two": model(second, ["a"], ["h"]),
        "three": model(third, ["h", "x"], ["y"]),
    }
    for name, data in pieces.items():
        (folder / f"{name}.onnx").write_bytes(data)
    stages = (
        stage("one", "one.onnx", ["x"], ["a", "early"], 0.4),
        stage("two", "two.onnx", ["a"], ["h"], 0.3),
        stage("three", "three.onnx", ["h", "x"], ["y"], 0.3),
    )
    return with_stages(whole, stages)


def test_tensors_may_skip_stages_and_outputs_come_out_of_any(tmp_path: Path) -> None:
    config = Config(stage_engines=("ort", "openvino", "ort"))
    with Session(skipping(tmp_path / "b"), config) as session:
        for outputs in (session.predict(x(1)), answer(session.submit(x(1))).outputs):
            assert list(outputs) == ["y", "early"]
            np.testing.assert_array_equal(outputs["y"], x(7))
            np.testing.assert_array_equal(outputs["early"], x(10))


def test_a_stage_whose_device_fails_falls_back_by_itself(two_devices: Bundle, stage_engine: ModuleType) -> None:
    with Session(two_devices, NPU_THEN_GPU) as session:
        session.predict(x(1))
        stage_engine.unplugged.add("gpu:0")
        prediction = session.infer(x(2))
        np.testing.assert_array_equal(prediction.outputs["y"], x(12))
        assert prediction.used_device == "numpy/npu:0+numpy/npu:0"
        assert prediction.requested_device == "npu:0+gpu:0"
        assert prediction.fell_back and session.rerouted == 1
        assert [(one.device, one.code) for one in session.fallbacks] == [("numpy/gpu:0", 1002)]


def test_shares_and_standby_are_told_by_stage(two_devices: Bundle) -> None:
    config = Config(engines=("numpy",), stage_engines=NPU_THEN_GPU.stage_engines, standby=True)
    with Session(two_devices, config) as session:
        session.predict(x(1))
        assert {share.device for share in session.shares if share.in_use} >= {
            "backbone on numpy/npu:0",
            "head on numpy/gpu:0",
        }
        wait_for(lambda: session.standby_device == "numpy/gpu:0+numpy/npu:0", what="both standbys are warm")


def test_results_are_kept_under_the_names_of_both_stages(cut: Bundle) -> None:
    with Session(cut, Config(stage_engines=("ort", "openvino"), cache=CacheConfig())) as session:
        assert session.infer(x(1)).cached is None
        again = session.infer(x(1))
        assert (again.cached, again.used_device) == ("memory", "ort/cpu:0+openvino/cpu:0")
        np.testing.assert_array_equal(again.outputs["y"], x(6))


# Frames on their way.


def answer(future: Future[Prediction]) -> Prediction:
    return future.result(60)


def test_the_next_frame_is_in_the_first_stage_while_this_one_is_in_the_second(
    two_devices: Bundle, stage_engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_frame_began = threading.Event()
    overlapped: list[bool] = []

    def watch(factor: float, array: Any) -> None:
        if factor == BACKBONE and array[0, 0] == 2:
            second_frame_began.set()
        if factor == HEAD and array[0, 0] == 1 * BACKBONE:
            overlapped.append(second_frame_began.wait(60))

    with Session(two_devices, NPU_THEN_GPU) as session:
        monkeypatch.setattr(stage_engine, "before", watch)
        futures = [session.submit(x(value)) for value in (1, 2)]
        assert [answer(one).outputs["y"][0, 0] for one in futures] == [6, 12]
    assert overlapped == [True]


def test_answers_come_in_the_order_of_the_calls(cut: Bundle) -> None:
    finished: list[float] = []
    with Session(cut, SPLIT_CPU) as session:
        futures: list[Future[Prediction]] = []
        for number in range(60):
            futures.append(session.submit(x(number)))
            futures[-1].add_done_callback(lambda done: finished.append(float(done.result().outputs["y"][0, 0])))
        assert [answer(one).outputs["y"][0, 0] for one in futures] == [6 * number for number in range(60)]
        counts = session.submit_counts
    assert finished == [6 * number for number in range(60)]
    assert (counts.taken, counts.answered, counts.pending, counts.moved) == (60, 60, 0, 0)
    assert session.calls == 60


@pytest.mark.parametrize("where", [BACKBONE, HEAD])
def test_an_error_reaches_the_call_that_it_belongs_to(
    two_devices: Bundle, stage_engine: ModuleType, monkeypatch: pytest.MonkeyPatch, where: float
) -> None:
    poison = 3 * (BACKBONE if where == HEAD else 1)

    def refuse(factor: float, array: Any) -> None:
        if factor == where and array[0, 0] == poison:
            raise BadInputFormatError("poison")

    with Session(two_devices, NPU_THEN_GPU) as session:
        monkeypatch.setattr(stage_engine, "before", refuse)
        futures = [session.submit(x(number)) for number in range(8)]
        for number, future in enumerate(futures):
            if number == 3:
                with pytest.raises(BadInputFormatError, match="poison"):
                    answer(future)
            else:
                assert answer(future).outputs["y"][0, 0] == 6 * number
        counts = session.submit_counts
    assert (counts.taken, counts.answered, counts.failed) == (8, 7, 1)


@pytest.mark.parametrize("device", ["npu:0", "gpu:0"])
def test_a_stages_device_is_lost_under_load_and_no_call_with_it(
    two_devices: Bundle, stage_engine: ModuleType, device: str
) -> None:
    with Session(two_devices, NPU_THEN_GPU) as session:
        futures: list[Future[Prediction]] = []
        for number in range(60):
            if number == 20:
                stage_engine.unplugged.add(device)
            if number >= 40:
                answer(futures[number - 30])  # never more under way than the queue takes
            futures.append(session.submit(x(number)))
        answers = [answer(future) for future in futures]
        counts = session.submit_counts
    assert [one.outputs["y"][0, 0] for one in answers] == [6 * number for number in range(60)]
    assert {one.used_device for one in answers} <= {
        "numpy/npu:0+numpy/gpu:0",
        "numpy/gpu:0+numpy/gpu:0",
        "numpy/npu:0+numpy/npu:0",
    }
    assert answers[-1].fell_back
    assert (counts.taken, counts.answered) == (60, 60)
    assert counts.moved >= 1


def test_a_stage_that_hangs_is_passed_on_within_the_deadline(
    two_devices: Bundle, stage_engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(two_devices, NPU_THEN_GPU) as session:
        answer(session.submit(x(1)))
        stage_engine.held["gpu:0"] = threading.Event()
        prediction = answer(session.submit(x(2), deadline_s=4.0))
        assert prediction.outputs["y"][0, 0] == 12
        assert prediction.used_device == "numpy/npu:0+numpy/npu:0"
        stage_engine.held["gpu:0"].set()


def test_a_call_that_no_device_finishes_is_1008(tmp_path: Path, stage_engine: ModuleType) -> None:
    bundle = cut_bundle(tmp_path / "cut", kinds=("gpu",))
    here = tuple(sorted(os.sched_getaffinity(0)))
    config = Config(engines=("numpy",), stage_cores=(here, here))
    with Session(bundle, config) as session:
        answer(session.submit(x(1)))
        stage_engine.held["gpu:0"] = threading.Event()
        with pytest.raises(DeadlineExceededError):
            answer(session.submit(x(2), deadline_s=0.3))
        stage_engine.held.pop("gpu:0").set()
        assert session.submit_counts.expired == 1


def test_a_call_can_be_cancelled_while_it_waits_for_a_stage(two_devices: Bundle, stage_engine: ModuleType) -> None:
    with Session(two_devices, NPU_THEN_GPU) as session:
        answer(session.submit(x(1)))
        stage_engine.held["npu:0"] = threading.Event()
        begun = stage_engine.begun["npu:0"]
        running, waiting = session.submit(x(2)), session.submit(x(3))
        assert stage_engine.wait_begun("npu:0", begun + 1)
        assert not running.cancel()
        assert waiting.cancel() and waiting.cancelled()
        stage_engine.held.pop("npu:0").set()
        assert answer(running).outputs["y"][0, 0] == 12
        with pytest.raises(CancelledError):
            answer(waiting)
        counts = session.submit_counts
    assert (counts.taken, counts.answered, counts.cancelled, counts.pending) == (3, 2, 1, 0)


def test_more_calls_than_the_queue_takes_are_1003(two_devices: Bundle, stage_engine: ModuleType) -> None:
    small = Config(engines=("numpy",), stage_engines=NPU_THEN_GPU.stage_engines, submit_queue=2)
    with Session(two_devices, small) as session:
        answer(session.submit(x(1)))
        stage_engine.held["gpu:0"] = threading.Event()  # the second stage: what was taken waits there
        taken: list[Future[Prediction]] = []
        with pytest.raises(DeviceBusyError):
            taken += iter(lambda: session.submit(x(len(taken))), None)  # until it is refused
        assert 3 <= len(taken) <= 4  # two wait, and one is in each stage if the first one was quick
        stage_engine.held.pop("gpu:0").set()
        assert [answer(one).outputs["y"][0, 0] for one in taken] == [6 * number for number in range(len(taken))]
        assert session.submit_counts.refused >= 1


def test_close_waits_for_what_is_under_way(two_devices: Bundle, stage_engine: ModuleType) -> None:
    session = Session(two_devices, NPU_THEN_GPU)
    futures = [session.submit(x(number)) for number in range(20)]
    session.close()
    assert [answer(one).outputs["y"][0, 0] for one in futures] == [6 * number for number in range(20)]
    assert not stage_engine.open_executables
    with pytest.raises(DeviceError, match="closed"):
        session.submit(x(1))


def test_close_ends_what_hangs(two_devices: Bundle, stage_engine: ModuleType) -> None:
    session = Session(two_devices, NPU_THEN_GPU)
    answer(session.submit(x(1)))
    stage_engine.held["gpu:0"] = threading.Event()
    future = session.submit(x(2))
    session.close(wait_s=0.2)
    with pytest.raises(DeviceError, match="closed"):
        answer(future)
    stage_engine.held.pop("gpu:0").set()


def test_reload_swaps_a_whole_model_for_a_cut_one_while_calls_run(two_devices: Bundle, tmp_path: Path) -> None:
    whole = make_bundle(tmp_path / "whole", scaler(60.0), device_kinds=("npu", "gpu"))
    stop = threading.Event()
    wrong: list[float] = []
    done = 0

    def ask() -> None:
        nonlocal done
        while not stop.is_set():
            value = float(answer(session.submit(x(1))).outputs["y"][0, 0])
            if value not in (6, 60):
                wrong.append(value)
            done += 1

    with Session(two_devices, NPU_THEN_GPU) as session:
        thread = threading.Thread(target=ask)
        thread.start()
        for bundle in (whole, two_devices, whole, two_devices):
            session.reload(bundle)
            before = done
            wait_for(lambda: done > before + 3)  # noqa: B023
        stop.set()
        thread.join(60)
        counts = session.submit_counts
    assert not wrong
    assert counts.taken == counts.answered == done


def test_a_stage_in_a_child_that_is_killed_loses_no_call(cut: Bundle) -> None:
    config = Config(stage_engines=("ort", "openvino"), isolate=("openvino",), engines=("ort", "openvino"), threads=1)
    child = isolation.isolated("openvino", None)
    with Session(cut, config) as session:
        futures: list[Future[Prediction]] = []
        for number in range(60):
            if number == 20:
                answer(futures[10])
                os.kill(child.pid or 0, signal.SIGKILL)
            if number >= 40:
                answer(futures[number - 30])
            futures.append(session.submit(x(number)))
        answers = [answer(future) for future in futures]
        fallbacks = {one.code for one in session.fallbacks}
    isolation.close_all()
    assert [one.outputs["y"][0, 0] for one in answers] == [6 * number for number in range(60)]
    assert 1009 in fallbacks
    assert {"ort/cpu:0+openvino/cpu:0", "ort/cpu:0+ort/cpu:0"} == {one.used_device for one in answers}
