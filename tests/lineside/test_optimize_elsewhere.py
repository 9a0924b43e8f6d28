"""``lineside optimize --on DEVICE``: an agent times the forms for the speed gate, and runs none of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import psutil
import pytest

from tests.worlds.agent import AgentProcess, folder_camera, write_agent, write_frames
from tests.worlds.hub import make_trusted_repository, write_hub

pytest.importorskip("onnx", reason="the convert extra is not installed")

from lineside.cli import main
from lineside.optimizer import device_clock
from lineside_converters.evolution.latency_comparison import compare_on
from lineside_converters.gates.remote_timing import SOURCE
from lineside_converters.optimizer import Optimizer
from lineside_hub.config import load_config
from lineside_hub.fleet.device_timing import RemoteTimer
from lineside_hub.repository.repository import Repository
from lineside_hub.server import Hub
from lineside_link.client.client import LinkClient
from lineside_link.messages import TIMING_SUFFIX, TimeAnswer, VariantTimes, decode
from lineside_link.topics import Topics
from lineside_models.frame import Frame
from lineside_models.simulator import render
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import BrokerError, RolloutError, SpeedGateError, TimingError
from tests.converters import nets
from tests.peers import Broker
from tests.peers.waiting import wait_for
from tests.worlds.bundles import make_bundle

pytestmark = pytest.mark.usefixtures("short_gates")

SITE, DEVICE = "t0", "bench-1"
TOPICS = Topics(SITE)


class Bench:
    """A hub, and a board on a bench whose agent inspects frames of its own meanwhile."""

    def __init__(self, folder: Path, broker: Broker, **settings: Any) -> None:
        self.hub = folder / "hub"
        make_trusted_repository(folder)
        write_hub(self.hub, broker.config(site=SITE))
        write_frames(folder / "frames", 1)
        write_agent(
            folder,
            device=DEVICE,
            bundle=str(make_bundle(folder / "runs").path),
            link=broker.config(DEVICE, site=SITE),
            camera=folder_camera(loop=True, rate_hz=2.0),
            **settings,
        )
        self.server = Hub(load_config(self.hub / "hub.toml"))
        self.server.start()
        self.agent = AgentProcess(folder)
        self.agent.start()
        self.answers: list[TimeAnswer] = []
        self.listener = LinkClient(load_config(self.hub / "hub.toml").link, "listener")
        self.listener.subscribe(
            TOPICS.time_answer(DEVICE), lambda _, data: self.answers.append(decode(data, TimeAnswer)), qos=0
        )
        self.listener.start()
        wait_for(
            lambda: self.knows_device() and self.agent.status.get("inspected"),
            60.0,
            what="the agent's birth at the hub",
        )

    def knows_device(self) -> bool:
        try:
            RemoteTimer(self.hub, DEVICE)
        except RolloutError:
            return False
        return True

    def wait_timed(self, count: int) -> list[TimeAnswer]:
        """Waits until the listener has heard the end of so many timings; returns their answers, in order."""

        def timed() -> list[TimeAnswer]:
            return list({each.id: each for each in self.answers if each.state == "done"}.values())

        wait_for(lambda: len(timed()) >= count, 60.0, what=f"{count} timings")
        assert len(timed()) == count
        return timed()

    def close(self) -> None:
        self.listener.close()
        self.agent.stop()
        self.server.close()


@pytest.fixture
def make_bench(tmp_path: Path, mosquitto: Broker) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*, time_for_hub: bool = True) -> Bench:
        made.append(Bench(tmp_path, mosquitto, time_for_hub=time_for_hub))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "surface-float.onnx"
    path.write_bytes(nets.convnet(depth=24))  # dense convolutions, which are faster as INT8 on every processor
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    path.write_bytes(nets.convnet(depth=2))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for seed in range(4):
        cv2.imwrite(str(tmp_path / "photos" / f"{seed}.png"), render("steel", seed).image)
    return tmp_path / "photos"


def compare_two_there(bench: Bench, bundle: Bundle, work: Path) -> None:
    """The device times two bundles in turn, as `lineside evolve --on` asks it to."""
    frames = [Frame(image=render("steel", seed).image) for seed in range(2)]
    compared = compare_on(device_clock(bench.hub, DEVICE), bundle, bundle, frames, work=work)
    *_, last = bench.wait_timed(2)
    names = {f"{which}-{one.name}" for which in ("before", "after") for one in bundle.manifest.variants}
    assert {one.variant for one in last.variants} == names
    assert compared.what == "inference" and compared.where.startswith(DEVICE)
    assert 0 < compared.low <= compared.ratio <= compared.high and min(compared.before_ms, compared.after_ms) > 0
    assert not (work / "timing").exists()


def search_there(bench: Bench, work: Path) -> None:
    """The device times the networks of a search: pruned ones of any input size, and forms that share weights."""
    pytest.importorskip("torch_pruning", reason="the train extra is not installed")
    pytest.importorskip("optuna", reason="the train extra is not installed")
    from lineside_converters.search import pipeline, progressive
    from lineside_converters.search.study import search
    from tests.converters.search_context import search_context

    (work / "search").mkdir()
    alone = search_context(work / "search")
    limits = dataclasses.replace(alone.optimization.limits, clock=device_clock(bench.hub, DEVICE))
    optimization = dataclasses.replace(alone.optimization, limits=limits)
    space = pipeline.space_for(optimization, alone.setup, alone.found)
    assert space.engines == (f"on {DEVICE}",)
    space = dataclasses.replace(space, sizes=(1.0, 0.5))
    context = dataclasses.replace(alone, optimization=optimization, space=space)
    known = len(bench.wait_timed(2))
    for one, method, trials, timings in (
        (context, pipeline.CUT, 7, 2),  # the last two are of the small size
        (progressive.progressive_context(context), progressive.TIMED_THERE, 2, 1),
    ):
        method = dataclasses.replace(method, together=True)
        tried = search(one, work / f"{trials}", sampler="nsga2", trials=trials, seed=1, method=method)
        timed = bench.wait_timed(known + timings)[known:]
        known += timings
        times = [min(ms for (ms,) in each.rounds_ms) for answer in timed for each in answer.variants]
        assert [each.latency_ms for each in tried] == pytest.approx(times)
    whole = pipeline.judge(context, context.setup.network, work / "whole")
    assert whole[0].choice.engine == f"on {DEVICE}" and whole[0].latency_ms > 0
    assert not list((work / "search").glob(".scratch-*"))


def test_the_figures_are_the_devices_and_nothing_of_the_trial_stays(
    make_bench: Callable[..., Bench], model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench, out = make_bench(), tmp_path / "out"
    words = ["optimize", str(model), "--target", "cpu", "--images", str(photos), "--out", str(out), "--no-memory"]
    assert main([*words, "--on", DEVICE, "--hub", str(bench.hub), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    (last,) = bench.wait_timed(1)
    times = {one.variant: [ms for (ms,) in one.rounds_ms] for one in last.variants}
    bundle = open_bundle(out)
    tried = {one["name"] for one in found["variants"] if one["latency_ms"] is not None}
    assert set(times) == {*tried, SOURCE, "onnx-fp32"}
    reference = times[min((SOURCE, "onnx-fp32"), key=lambda name: statistics.median(times[name]))]
    for one in found["variants"]:
        if one["name"] in times:
            assert one["latency_ms"] == pytest.approx(statistics.median(times[one["name"]]))
            rounds = zip(times[one["name"]], reference, strict=True)
            assert one["kept"] == (statistics.median(form / other for form, other in rounds) <= 1)
    fastest = bundle.manifest.variants[0].name
    ratios = [one / other for one, other in zip(times[fastest], times[SOURCE], strict=True)]
    assert found["speedup"] == pytest.approx(1 / statistics.median(ratios))
    assert found["int8"]["latency_ms"] == pytest.approx(statistics.median(times[fastest]))
    compare_two_there(bench, bundle, tmp_path)
    search_there(bench, tmp_path)
    assert found["float"]["latency_ms"] == pytest.approx(statistics.median(times[SOURCE]))
    assert found["timed_on"].startswith(f"{DEVICE} (") and found["timed_on"].endswith("ort/cpu:0")
    assert {gate["name"]: gate["status"] for gate in found["gates"]}["speed"] == "passed"
    assert bundle.manifest.speed == "measured" and fastest != "onnx-fp32"
    assert any("frames of its line while it timed" in note for note in found["notes"])
    assert f"Timed on {found['timed_on']}" in (out / "model_card.md").read_text()
    assert found["timed_on"] in (out / "report.html").read_text()

    repository = Repository.open(bench.hub)
    assert [target for target in repository.targets_of("default") if target.endswith(TIMING_SUFFIX)] == []
    assert list((bench.hub / "targets").rglob("*.trial.json")) == []
    wait_for(lambda: not (bench.agent.state / "trial").exists(), what="the trial to be forgotten")
    assert len(bench.answers) < 1000, "the hub asks once a second, not after each answer"
    assert (bench.agent.status["installed"], bench.agent.status["faults"]) == ("bright-spots@1.0.0", 0)


def test_a_device_that_does_not_let_it_is_asked_before_any_work(
    make_bench: Callable[..., Bench], model: Path, photos: Path, tmp_path: Path
) -> None:
    bench = make_bench(time_for_hub=False)
    said: list[str] = []
    optimizer = Optimizer(
        model,
        "rpi5",
        frames=photos,
        out=tmp_path / "out",
        clock=device_clock(bench.hub, DEVICE),
        on_progress=said.append,
    )
    with pytest.raises(TimingError, match="may not have bundles timed") as caught:
        optimizer.run()
    assert caught.value.code == 5005 and "time_for_hub = true" in caught.value.action
    assert not (tmp_path / "out").exists() and not any("calibrat" in text for text in said)


@pytest.mark.slow
def test_a_timing_that_dies_is_told_and_the_line_goes_on(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make_bench()
    timed = nets.bundle(tmp_path / "timed", nets.convnet(depth=2)).path
    killed = threading.Event()

    def kill() -> None:
        while not killed.wait(0.01):
            for child in psutil.Process(bench.agent.pid).children():
                with contextlib.suppress(psutil.Error):  # an engine that was asked what it can do has ended
                    if "lineside_agent.inspection.variant_timing" in child.cmdline():
                        child.kill()
                        killed.set()

    killer = threading.Thread(target=kill)
    killer.start()
    clock = device_clock(bench.hub, DEVICE)
    with pytest.raises(TimingError, match=r"\[1009\].*SIGKILL"):
        clock.time(timed, rounds=3, shapes=[])
    killed.set()
    killer.join()
    before = bench.agent.status["inspected"]
    wait_for(lambda: bench.agent.status["inspected"] > before, what="the line to go on")
    (again,) = clock.time(timed, rounds=3, shapes=[]).variants
    assert again.device == "ort/cpu:0" and len(again.rounds_ms) == 3


def test_a_device_that_is_away_and_one_that_nobody_knows_are_errors(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.agent.kill()
    with pytest.raises(BrokerError, match=f"{DEVICE} doesn't answer"):
        RemoteTimer(bench.hub, DEVICE, silence_s=1.5).check()
    with pytest.raises(RolloutError, match="not heard of bench-2"):
        device_clock(bench.hub, "bench-2")


class Planted:
    """A device with times of our choice: no model is slower as INT8 on every machine."""

    device = "planted"

    def __init__(self, times: dict[str, tuple[float, ...]]) -> None:
        self._times = times

    def check(self) -> str:
        return "a board"

    def time(self, bundle: Path, *, rounds: int, shapes: Sequence[dict[str, tuple[int, ...]]]) -> TimeAnswer:
        assert len(shapes) == 1
        names = [variant.name for variant in open_bundle(bundle).manifest.variants]
        made = [
            VariantTimes(variant=name, device="ort/cpu:0", rounds_ms=tuple((ms,) for ms in self._times[name]))
            if name in self._times
            else VariantTimes(variant=name, why="no room")
            for name in names
        ]
        return TimeAnswer(id="1", state="done", board="a board", variants=tuple(made))


def test_a_form_that_is_slower_there_is_not_shipped(small: Path, photos: Path, tmp_path: Path) -> None:
    slow = Planted({SOURCE: (2.0, 3.0, 2.0), "onnx-fp32": (2.0, 2.0, 2.0), "onnx-int8": (2.1, 3.1, 2.1)})
    with pytest.raises(SpeedGateError, match=r"1\.05.*planted \(a board\), ort/cpu:0"):
        Optimizer(small, "cpu", frames=photos, out=tmp_path / "out", clock=slow).run()
    assert not (tmp_path / "out").exists()


def test_this_machines_times_leave_nothing_out_that_the_device_is_to_time(
    small: Path, photos: Path, tmp_path: Path
) -> None:
    fast = Planted({SOURCE: (200.0, 210.0), "onnx-fp32": (200.0, 210.0), "onnx-int8": (1.0, 1.0)})
    result = Optimizer(small, "cpu", frames=photos, out=tmp_path / "out", clock=fast, min_speedup=100.0).run()
    assert result.speedup == pytest.approx(205.0, abs=5)
    assert result.report.timed_on == "planted (a board), ort/cpu:0"


def test_where_no_float_model_runs_speed_stays_unproven(small: Path, photos: Path, tmp_path: Path) -> None:
    result = Optimizer(
        small, "cpu", frames=photos, out=tmp_path / "out", clock=Planted({"onnx-int8": (1.0, 1.0)})
    ).run()
    assert result.bundle.manifest.speed == "unproven" and result.report.timed_on == ""
    assert any("no float model that runs on planted (a board) was here" in note for note in result.report.notes)


def test_a_form_that_does_not_run_there_is_left_out(small: Path, photos: Path, tmp_path: Path) -> None:
    from lineside_runtime.errors import NoDeviceError

    with pytest.raises(NoDeviceError, match="doesn't run onnx-int8: no room"):
        Optimizer(
            small, "cpu", frames=photos, out=tmp_path / "out", clock=Planted({SOURCE: (1.0,), "onnx-fp32": (1.0,)})
        ).run()
    assert not (tmp_path / "out").exists()


def test_a_float_form_is_held_against_the_source_alone(small: Path, photos: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"optimization_level": 0, "frames": photos, "out": tmp_path / "out"}
    with pytest.raises(SpeedGateError):
        Optimizer(small, "cpu", **how, clock=Planted({SOURCE: (1.0,), "onnx-fp32": (1.2,)})).run()
    result = Optimizer(small, "cpu", **how, clock=Planted({SOURCE: (2.0,), "onnx-fp32": (1.6,)})).run()
    assert result.report.timed_on == "planted (a board), ort/cpu:0"
    assert result.speedup == pytest.approx(1.25)
    assert result.float_figures.latency_ms == 1.6
