"""Deployment of configurations under any order of desired states, outcomes and kills."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_agent.config import AgentConfig, InspectConfig, SimulatorCameraConfig
from lineside_agent.deployment.artifacts.bundle import BundleArtifact
from lineside_agent.deployment.artifacts.configuration import ConfigurationArtifact, FollowedConfiguration
from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.machine import ConfigurationMachine
from lineside_agent.deployment.runner import Deployment, Runner
from lineside_agent.deployment.slots import Slots
from lineside_agent.hub_client.no_hub import NoHub
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_link.messages import ConfigRef, Desired
from lineside_runtime.errors import EngineError, FetchError, LinesideError

TRIED_TOO_OFTEN = 5002


class Killed(BaseException):
    """Ends the process."""


def content(number: int) -> bytes:
    return f"[inspect]\nthreads = {number}\n".encode()


def reference(number: int) -> ConfigRef:
    return ConfigRef(target=f"line/{number}.toml", sha256=hashlib.sha256(content(number)).hexdigest())


def number_of(config: ConfigRef) -> int:
    return int(Path(config.target).stem)


class CheckedConfiguration(ConfigurationArtifact):
    """A configuration whose health check ends as the test says."""

    outcome = "done"

    def check_health(self, machine: ConfigurationMachine) -> bool:
        if self.outcome == "kill":
            raise Killed
        if self.outcome == "bad":
            raise EngineError("a frame could not be inspected")
        return super().check_health(machine)


class ConfigurationDevice:
    """A device whose disk outlives kills; how fetches and checks end is chosen by the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.desired: Desired | None = None
        self.brought: list[str] = []
        self.start()

    def start(self) -> None:
        """Starts the process with what is on the disk; what is desired is heard again."""
        local = AgentConfig(device="cam-1", folder=self.folder, camera=SimulatorCameraConfig(), inspect=InspectConfig())
        self.configuration = FollowedConfiguration(local)
        stop = threading.Event()
        bundle = BundleArtifact(
            self.folder,
            slots=Slots(self.folder),
            active=ActiveBundle(),
            inspect=lambda: self.configuration.effective.inspect,
            fetch=NoHub().fetch,
            report=lambda *_: None,
            stop=stop,
        )
        self.artifact = CheckedConfiguration(self.configuration, bundle, fetch=self._fetch, report=lambda _: None)
        self.runner = Runner(Deployment(bundle), Deployment(self.artifact), stop=stop)
        self.runner.start()
        if self.desired is not None:
            self.want(self.desired)

    def want(self, desired: Desired) -> None:
        self.desired = desired
        self.runner.post(DesiredChanged("group", desired))

    def work(self, outcome: str) -> None:
        """Goes as far as it can; every fetch and every check ends as told."""
        self.artifact.outcome = outcome
        self.runner.kick()
        try:
            while self.runner.turn() == 0.0:
                pass
        except Killed:
            self.start()

    def _fetch(self, config: ConfigRef, _should_stop: object) -> bytes:
        self.brought.append(config.sha256)
        if self.artifact.outcome in ("down", "gone"):
            raise FetchError("no answer", status=404 if self.artifact.outcome == "gone" else 0)
        return content(number_of(config))

    @property
    def installed(self) -> ConfigRef | None:
        return self.configuration.report().installed

    @property
    def error(self) -> int | None:
        error = self.configuration.report().error
        return None if error is None else error.code

    @property
    def answers_newest(self) -> bool:
        """Whether what ended was asked for as the newest push asks: an attempt that began before it is ended first."""
        return self.desired is not None and self.configuration.machine.asked == self.desired.generation_of("config")

    @property
    def threads(self) -> int:
        return self.configuration.effective.inspect.threads


def desire(device: ConfigurationDevice, number: int | None, *, asked: int | None = None) -> None:
    """The hub's next push: of this configuration, or of something else that carries it along (``asked``)."""
    gen = (device.desired.gen if device.desired else 0) + 1
    gens: dict[str, Any] = {} if asked is None else {"gens": {"config": asked}}
    device.want(Desired(epoch=1, gen=gen, config=None if number is None else reference(number), **gens))


moves = st.lists(
    st.tuples(st.just("push"), st.none() | st.integers(2, 5))
    | st.sampled_from(["along", "done", "done", "bad", "down", "gone", "kill"]),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(moves=moves)
def test_no_order_of_pushes_outcomes_and_kills_breaks_an_invariant(moves: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        device = ConfigurationDevice(Path(folder))
        refused: set[tuple[int, str]] = set()
        for move in moves:
            if isinstance(move, tuple):
                desire(device, move[1])
                continue
            if move == "along":
                if device.desired is not None and device.desired.config is not None:
                    number = number_of(device.desired.config)
                    desire(device, number, asked=device.desired.generation_of("config"))
                continue
            check_move(device, move, refused)
        if device.desired is not None and device.desired.config is not None:
            check_move(device, "done", refused)
            wanted = device.desired.config
            assert device.installed == wanted or (device.desired.generation_of("config"), wanted.sha256) in refused


def check_move(device: ConfigurationDevice, move: str, refused: set[tuple[int, str]]) -> None:
    before, brought = device.installed, len(device.brought)
    wanted = device.desired.config if device.desired is not None else None
    name = (device.desired.generation_of("config"), wanted.sha256) if device.desired is not None and wanted else None
    device.work(move)
    fetched = len(device.brought) > brought  # not after a kill behind the fetch
    if device.installed != before:
        assert move == "done" or (move in ("down", "gone") and not fetched), "it changes only after a good check"
        assert device.installed == wanted
    assert device.threads == (1 if device.installed is None else number_of(device.installed))
    if name in refused:
        assert len(device.brought) == brought, "what ended badly is not tried again"
    elif name is not None and wanted != before and (move == "bad" or (move == "gone" and fetched)):
        assert device.error is not None
        refused.add(name)
    elif name is not None and wanted != before and device.error == TRIED_TOO_OFTEN and device.answers_newest:
        refused.add(name)


@pytest.mark.parametrize("error", [EngineError("x"), FetchError("x", status=404)])
def test_a_refused_one_is_tried_again_only_when_it_is_asked_for_anew(tmp_path: Path, error: LinesideError) -> None:
    device = ConfigurationDevice(tmp_path)
    desire(device, 2)
    device.work("gone" if isinstance(error, FetchError) else "bad")
    assert (device.error, device.installed) == (error.code, None)
    desire(device, 2, asked=1)
    device.work("done")
    assert device.installed is None
    desire(device, 2)
    device.work("done")
    assert device.error is None
    assert device.installed == reference(2)


def test_one_that_ends_the_agent_again_and_again_is_given_up(tmp_path: Path) -> None:
    device = ConfigurationDevice(tmp_path)
    desire(device, 3)
    device.work("done")
    desire(device, 2)
    for _ in range(ConfigurationMachine.rules.max_starts):
        assert device.error is None
        device.work("kill")
        assert (device.installed, device.threads) == (reference(3), 3)
    device.work("done")
    assert device.error == 5002
    assert (device.installed, device.threads) == (reference(3), 3)
