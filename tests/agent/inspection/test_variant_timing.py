"""Timing of bundles for the hub: in a process of its own, in turn, without disturbing the line."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside_agent.config import InspectConfig
from lineside_agent.deployment.fetch import Fetcher
from lineside_agent.hub_client.timing_commands import TimeCommands
from lineside_agent.inspection.variant_timing import time_in_child
from lineside_link.messages import TIMING_SUFFIX, BundleRef, Shapes, TimeAnswer, TimeCommand, decode, encode
from lineside_link.transfer.pull_window import FetchStopped
from lineside_runtime.bundle import write_manifest
from lineside_runtime.errors import EngineError, FetchError, SignatureError
from tests.agent.inspection.test_variant_selection import two_forms
from tests.peers.waiting import wait_for

RULES = InspectConfig(threads=1)
SHAPES: Shapes = ({"image": (1, 1, 96, 96)}, {"image": (1, 1, 192, 192)})
BUNDLE = BundleRef(name="surface", version="1", target=f"line/surface-1{TIMING_SUFFIX}", sha256="0" * 64)


def never() -> bool:
    return False


def test_the_deeper_network_takes_longer_in_every_round(tmp_path: Path) -> None:
    bundle = two_forms(tmp_path / "bundle")
    deep, shallow = time_in_child(bundle.path, RULES, 6, SHAPES, never)
    assert (deep.variant, deep.device, shallow.variant) == ("deep", "ort/cpu:0", "shallow")
    assert len(deep.rounds_ms) == len(shallow.rounds_ms) == 6
    for shape in range(2):
        rounds = zip(deep.rounds_ms, shallow.rounds_ms, strict=True)
        assert statistics.median(one[shape] / other[shape] for one, other in rounds) > 3
    assert statistics.median(large / small for small, large in deep.rounds_ms) > 1.5


def test_what_does_not_run_says_why_and_the_others_are_timed(tmp_path: Path) -> None:
    bundle = two_forms(tmp_path / "bundle")
    (tmp_path / "bundle" / "shallow" / "model.onnx").write_bytes(b"not a model")
    deep, shallow = time_in_child(write_manifest(bundle.path, bundle.manifest).path, RULES, 3, (), never)
    assert len(deep.rounds_ms) == 3 and not shallow.rounds_ms and shallow.why


def test_a_bundle_of_which_nothing_runs_and_a_damaged_one_are_errors(tmp_path: Path) -> None:
    bundle = two_forms(tmp_path / "bundle", kinds=("npu",))
    with pytest.raises(EngineError, match="nothing here runs"):
        time_in_child(bundle.path, RULES, 3, (), never)
    (bundle.path / "deep" / "model.onnx").write_bytes(b"another")
    with pytest.raises(EngineError, match=r"\[3002\]"):
        time_in_child(bundle.path, RULES, 3, (), never)


@pytest.mark.parametrize(
    "shapes",
    [
        {"image": (1, 3, 96, 96)},
        {"image": (1, 1, 1 << 14, 1 << 14)},
        {"image": (1, 1, -5, 96)},
        {"picture": (1, 1, 9, 9)},
    ],
)
def test_shapes_that_the_bundle_does_not_take_or_that_would_fill_the_memory_are_errors(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    bundle = two_forms(tmp_path / "bundle")
    with pytest.raises(EngineError, match=r"\[2003\]"):
        time_in_child(bundle.path, RULES, 3, (shapes,), never)


def test_a_stop_ends_the_process(tmp_path: Path) -> None:
    bundle = two_forms(tmp_path / "bundle")
    with pytest.raises(FetchStopped):
        time_in_child(bundle.path, RULES, 100, (), lambda: True)


def test_what_is_signed_to_be_timed_is_never_brought_to_be_run(tmp_path: Path) -> None:
    fetcher = Fetcher("line", trust=None, repo=None)  # type: ignore[arg-type]  # it must not come so far
    with pytest.raises(SignatureError, match="to be timed, not to be run"):
        fetcher.fetch(BUNDLE, tmp_path / "slot", lambda *_: None, never)
    assert not (tmp_path / "slot").exists()


class Device:
    """The device's side of the commands, without a broker."""

    def __init__(self, folder: Path, fetch: Callable[..., None]) -> None:
        self.answers: list[TimeAnswer] = []
        self.stop = threading.Event()
        self.commands = TimeCommands(
            folder,
            allowed=True,
            board="a board",
            inspect=RULES,
            fetch=fetch,
            publish=lambda data: self.answers.append(decode(data, TimeAnswer)),
        )
        self.thread = threading.Thread(target=self.commands.run, args=(self.stop, lambda: 7))
        self.thread.start()

    def send(self, identity: str, bundle: BundleRef | None = BUNDLE) -> TimeAnswer:
        self.commands.received("", encode(TimeCommand(id=identity, bundle=bundle, rounds=3)))
        return self.answers[-1]

    def close(self) -> None:
        self.stop.set()
        self.thread.join(60.0)
        assert not self.thread.is_alive()


def test_one_command_is_carried_out_once_and_another_waits(tmp_path: Path) -> None:
    brought: list[str] = []
    go_on = threading.Event()

    def fetch(bundle: BundleRef, folder: Path, progress: Callable[[int, int], None], _stop: object) -> None:
        brought.append(bundle.identity)
        progress(1, 4)
        assert go_on.wait(60.0)
        two_forms(folder / "made")
        for path in sorted((folder / "made").iterdir()):
            path.rename(folder / path.name)

    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "left over").touch()
    device = Device(tmp_path, fetch)
    try:
        assert device.send("0", None).state == "ready" and device.answers[-1].board == "a board"
        assert device.send("1").state == "fetching"
        wait_for(lambda: brought and device.send("1").progress == 0.25)
        busy = device.send("2")
        assert (busy.id, busy.state, busy.error and busy.error.code) == ("2", "failed", 1003)
        go_on.set()
        wait_for(lambda: device.send("1").state == "done", 60.0)
        assert [one.variant for one in device.answers[-1].variants] == ["deep", "shallow"]
        assert all(len(one.rounds_ms) == 3 for one in device.answers[-1].variants)
        assert brought == ["surface@1"]
        wait_for(lambda: not (tmp_path / "trial").exists())
    finally:
        go_on.set()
        device.close()


def test_a_fetch_that_fails_is_told_and_the_next_command_is_taken(tmp_path: Path) -> None:
    def fetch(*_: object) -> None:
        raise FetchError("the hub doesn't answer", status=503)

    device = Device(tmp_path, fetch)
    try:
        for identity in ("1", "2"):
            device.send(identity)
            wait_for(lambda: device.answers[-1].state == "failed")
            assert device.answers[-1].error is not None and device.answers[-1].error.code == 4004
            assert device.answers[-1].id == identity
        assert not (tmp_path / "trial").exists()
    finally:
        device.close()
