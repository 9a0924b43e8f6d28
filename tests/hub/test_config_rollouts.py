"""Configurations in stages: a canary first, the rest when it is healthy, back again on a failure share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_hub.database import Database
from lineside_hub.fleet import Fleet
from lineside_hub.listing import list_rollouts
from lineside_hub.prune import prune
from lineside_hub.push import ConfigPushed, push, push_config
from lineside_hub.repository import Repository
from lineside_hub.rollouts import Rollouts
from lineside_link.messages import ConfigRef, ConfigReport, Desired, Problem, Reported, Up
from lineside_runtime.errors import RolloutError

GROUP = "line-a"
STRICT = b"[inspect]\nconfidence_threshold = 0.9\n"
LOOSE = b"[inspect]\nconfidence_threshold = 0.1\n"


class Plant:
    """A hub's folder and devices that follow, or refuse, the wish that counts for them, as `Configuration` does."""

    def __init__(self, folder: Path, devices: int = 4) -> None:
        self.folder = folder
        self.names = [f"cam-{number}" for number in range(devices)]
        self.database = Database.open(folder)
        self.rollouts = Rollouts(self.database)
        self.installed: dict[str, ConfigRef | None] = dict.fromkeys(self.names)
        with self.database.transaction():
            for name in self.names:
                Fleet(self.database).write_up(Up(device=name, up=True, boot_id="b", group=GROUP))

    def wish(self, name: str) -> Desired | None:
        own = self.database.wish(f"d/{name}")
        return own if own is not None and not own.withdrawn else self.database.wish(f"g/{GROUP}")

    def answer(self, *names: str, code: int = 0) -> None:
        for name in names or self.names:
            wish = self.wish(name)
            if wish is None or wish.config is None:
                continue
            error = Problem(code=code, error="E", message="m") if code else None
            self.installed[name] = self.installed[name] if code else wish.config
            report = ConfigReport(
                epoch=wish.epoch, gen=wish.gen, installed=self.installed[name], wanted=wish.config, error=error
            )
            with self.database.transaction():
                Fleet(self.database).write_reported(
                    Reported(device=name, epoch=wish.epoch, gen=wish.gen, state="idle", configuration=report)
                )

    def push(self, data: bytes, **plan: object) -> ConfigPushed:
        return push_config(self.folder, data, group=GROUP, **({"healthy_for_s": 0.0} | plan))  # type: ignore[arg-type]

    def settle(self, first_s: float = 1.0) -> str:
        for second in range(20):
            self.answer()
            self.rollouts.tick(first_s + second)
        self.answer()
        return self.rollouts.list()[-1].state

    def follows(self) -> dict[str, str]:
        return {name: ref.sha256[:8] if ref is not None else "" for name, ref in self.installed.items()}

    def wanted(self, name: str) -> str:
        wish = self.wish(name)
        return wish.config.sha256 if wish is not None and wish.config is not None else ""


@pytest.fixture
def plant(repository: Repository) -> Iterator[Plant]:
    made = Plant(repository.folder)
    yield made
    made.database.close()


def test_a_canary_first_and_the_rest_when_it_is_healthy(plant: Plant) -> None:
    pushed = plant.push(STRICT)
    assert pushed.devices == ("cam-0",)
    base = plant.wanted("cam-1")
    assert base not in ("", pushed.ref.sha256), "an empty one, which was signed too: agent.toml alone"
    assert plant.wanted("cam-0") == pushed.ref.sha256
    plant.rollouts.tick(1.0)
    assert plant.wanted("cam-1") == base, "the canary hasn't answered"
    plant.answer("cam-0")
    plant.rollouts.tick(2.0)
    assert {plant.wanted(name) for name in plant.names} == {pushed.ref.sha256}
    assert plant.settle(3.0) == "completed"
    assert set(plant.follows().values()) == {pushed.ref.sha256[:8]}
    (summary,) = list_rollouts(plant.folder)
    assert (summary.rollout.kind, summary.rollout.target.identity) == ("config", pushed.ref.identity)
    assert summary.members == 4


def test_a_canary_that_refuses_it_takes_nobody_along(plant: Plant) -> None:
    first = plant.push(LOOSE)
    plant.settle()
    second = plant.push(STRICT)
    plant.answer("cam-0", code=5002)
    plant.rollouts.tick(100.0)
    assert plant.rollouts.get(second.rollout).state == "rolled_back"
    assert {plant.wanted(name) for name in plant.names} == {first.ref.sha256}


def test_too_many_failures_give_all_what_they_had(plant: Plant) -> None:
    pushed = plant.push(STRICT, canary=0, max_failed=0.3)
    plant.answer("cam-0", "cam-1")
    plant.answer("cam-2", "cam-3", code=5002)
    plant.rollouts.tick(1.0)
    rollout = plant.rollouts.get(pushed.rollout)
    assert (rollout.state, rollout.before is not None) == ("rolled_back", True)
    plant.answer()
    assert pushed.ref.sha256[:8] not in plant.follows().values()
    assert "stay" not in rollout.reason


def test_what_was_shed_is_no_failure(plant: Plant) -> None:
    pushed = plant.push(STRICT)
    plant.answer("cam-0", code=4004)
    plant.rollouts.tick(1.0)
    assert plant.rollouts.get(pushed.rollout).state == "running"
    plant.answer("cam-0")
    plant.rollouts.tick(2.0)
    assert plant.rollouts.get(pushed.rollout).grouped


def test_pause_resume_and_abort(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    pushed = plant.push(STRICT, phases=[0.5, 1.0])
    assert len(pushed.devices) == 2
    hub = str(plant.folder)
    assert main(["fleet", "rollout", "pause", pushed.rollout, "--hub", hub]) == 0
    plant.answer("cam-0", "cam-1")
    for second in range(5):
        plant.rollouts.tick(float(second))
    assert plant.wanted("cam-3") != pushed.ref.sha256
    assert main(["fleet", "rollout", "resume", pushed.rollout, "--hub", hub]) == 0
    for second in range(5, 9):
        plant.rollouts.tick(float(second))
    assert plant.wanted("cam-3") == pushed.ref.sha256
    capsys.readouterr()
    assert main(["fleet", "rollout", "abort", pushed.rollout, "--hub", hub, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "aborted"
    plant.answer()
    assert pushed.ref.sha256[:8] not in plant.follows().values()
    assert main(["fleet", "rollout", "show", pushed.rollout, "--hub", hub]) == 0
    assert "config@" in capsys.readouterr().out


def test_a_withdrawn_configuration_comes_back_with_no_later_push(plant: Plant, make_bundle) -> None:
    """A canary's withdrawn wish still holds the configuration that failed; a bundle's canary must not revive it."""
    bad = plant.push(STRICT)
    plant.answer("cam-0", code=5002)
    plant.rollouts.tick(1.0)
    assert plant.rollouts.get(bad.rollout).state == "rolled_back"
    plant.answer()
    pushed = push(plant.folder, make_bundle("1.0.0").path, group=GROUP)
    assert pushed.devices == ("cam-0",)
    own = plant.database.wish("d/cam-0")
    assert own is not None
    assert own.bundle == pushed.ref
    assert plant.wanted("cam-0") == plant.wanted("cam-1") != bad.ref.sha256


def test_a_bundle_brings_the_configuration_along_without_asking_anew(plant: Plant, make_bundle) -> None:
    """What a device refused isn't tried again because something else was pushed."""
    config = plant.push(STRICT, canary=0, max_failed=1.0)
    plant.answer(code=5002)
    plant.rollouts.tick(1.0)
    asked = plant.wish("cam-1")
    push(plant.folder, make_bundle("1.0.0").path, group=GROUP, canary=0)
    brought = plant.wish("cam-1")
    assert asked is not None
    assert brought is not None
    assert brought.config == config.ref
    assert brought.gen > asked.gen
    assert brought.asked("config") == asked.asked("config")


def test_a_newer_configuration_takes_over_and_one_of_another_kind_waits(plant: Plant, make_bundle) -> None:
    first = plant.push(STRICT)
    with pytest.raises(RolloutError, match="another config"):
        push(plant.folder, make_bundle("1.0.0").path, group=GROUP)
    second = plant.push(LOOSE)
    assert plant.rollouts.get(first.rollout).state == "superseded"
    assert plant.settle() == "completed"
    assert set(plant.follows().values()) == {second.ref.sha256[:8]}


def test_what_a_rollout_would_go_back_to_is_not_pruned(plant: Plant) -> None:
    plant.push(LOOSE)
    plant.settle()
    before = plant.wanted("cam-1")
    for number in range(1, 4):
        push_config(plant.folder, b"[inspect]\nthreads = %d\n" % number, group=GROUP, healthy_for_s=0.0)
    prune(plant.folder, keep=1, dry_run=False)
    targets = Repository.open(plant.folder).targets_of(GROUP)
    assert any(before[:16] in target for target in targets)
