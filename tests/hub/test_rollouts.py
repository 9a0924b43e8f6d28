"""The rollout's rim: value and wishes are one transaction, wherever the process is killed."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from lineside_hub.database import Database
from lineside_hub.fleet import Fleet
from lineside_hub.rollout import Plan, Rollout, Stage
from lineside_hub.rollouts import Rollouts, members, plan_for
from lineside_link.messages import BundleRef, Problem, Reported, State, Up, encode
from lineside_runtime.errors import RolloutError

GROUP = "line-a"
OLD = BundleRef(name="m", version="1", target="line-a/m-1.json", sha256="1" * 64)
NEW = BundleRef(name="m", version="2", target="line-a/m-2.json", sha256="2" * 64)
CANARY = Plan(stages=(Stage(count=1),), max_failed=0.3, healthy_for_s=0)


class Plant:
    """A hub's database and devices that answer the wish that counts for them."""

    def __init__(self, folder: Path, devices: int = 3, *, born: bool = True) -> None:
        self.folder = folder
        self.names = [f"cam-{number}" for number in range(devices)]
        self.database = Database.open(folder)
        self.rollouts = Rollouts(self.database)
        with self.database.transaction():
            for name in self.names if born else ():
                Fleet(self.database).write_up(Up(device=name, up=True, boot_id="b", group=GROUP))

    def wished(self, name: str) -> tuple[int, int, BundleRef | None]:
        own = self.database.wish(f"d/{name}")
        wish = own if own is not None and not own.withdrawn else self.database.wish(f"g/{GROUP}")
        return (wish.epoch, wish.gen, wish.bundle) if wish else (0, 0, None)

    def answer(self, name: str, *, state: State = "active", code: int = 5001) -> None:
        epoch, gen, bundle = self.wished(name)
        problem = Problem(code=code, error="E", message="m") if state in ("failed", "rolled_back") else None
        installed = bundle if state == "active" else None
        report = Reported(
            device=name, epoch=epoch, gen=gen, state=state, wanted=bundle, installed=installed, error=problem
        )
        with self.database.transaction():
            Fleet(self.database).write_reported(report)

    def everybody(self) -> dict[str, str]:
        return {name: bundle.version if (bundle := self.wished(name)[2]) else "" for name in self.names}

    def settle(self) -> Rollout:
        for second in range(20):
            for name in self.names:
                self.answer(name)
            self.rollouts.tick(second)
            if not self.rollouts.list(unfinished=True):
                break
        for name in self.names:
            self.answer(name)
        return self.rollouts.list()[-1]


@pytest.fixture
def plant(tmp_path: Path):
    made = Plant(tmp_path)
    yield made
    made.database.close()


def test_a_rollout_reaches_the_canary_then_all(plant: Plant) -> None:
    plant.rollouts.start(GROUP, target=OLD, plan=Plan(healthy_for_s=0))
    assert plant.settle().state == "completed"
    plant.rollouts.start(GROUP, target=NEW, plan=CANARY)
    assert plant.everybody() == {"cam-0": "2", "cam-1": "1", "cam-2": "1"}
    plant.rollouts.tick(1.0)
    assert plant.everybody() == {"cam-0": "2", "cam-1": "1", "cam-2": "1"}  # its old answer is no answer
    plant.answer("cam-0")
    assert plant.rollouts.tick(2.0)
    assert plant.everybody() == dict.fromkeys(plant.names, "2")
    own = plant.database.wish("d/cam-0")
    assert own is not None
    assert own.withdrawn
    assert plant.settle().state == "completed"
    assert not plant.rollouts.tick(99.0)


def test_a_failed_canary_takes_nobody_along(plant: Plant) -> None:
    plant.rollouts.start(GROUP, target=OLD, plan=Plan(healthy_for_s=0))
    plant.settle()
    begun = plant.rollouts.start(GROUP, target=NEW, plan=CANARY)
    plant.answer("cam-0", state="rolled_back")
    plant.rollouts.tick(1.0)
    assert plant.rollouts.get(begun.id).state == "rolled_back"
    assert plant.everybody() == dict.fromkeys(plant.names, "1")
    kinds = [(event.kind, event.detail) for event in plant.database.events(kind="rollout")]
    assert "rolled_back" in kinds[-1][1]


def test_too_many_failures_in_the_group_give_all_what_they_had(plant: Plant) -> None:
    plant.rollouts.start(GROUP, target=OLD, plan=Plan(healthy_for_s=0))
    plant.settle()
    plant.rollouts.start(GROUP, target=NEW, plan=Plan(max_failed=0.3))
    plant.answer("cam-0")
    plant.answer("cam-1", state="failed")
    plant.rollouts.tick(1.0)
    assert plant.everybody() == dict.fromkeys(plant.names, "1")


@pytest.mark.parametrize("code", [1003, 1010, 4003, 4004])
def test_load_that_was_shed_is_no_failure_and_is_asked_again(plant: Plant, code: int) -> None:
    begun = plant.rollouts.start(GROUP, target=NEW, plan=CANARY)
    before = plant.wished("cam-0")
    plant.answer("cam-0", state="failed", code=code)
    plant.rollouts.tick(1.0)
    assert plant.rollouts.get(begun.id).state == "running"
    assert plant.wished("cam-0")[1] > before[1]
    plant.answer("cam-0")
    plant.rollouts.tick(2.0)
    assert plant.everybody() == dict.fromkeys(plant.names, "2")


def test_a_newer_push_takes_over_and_remembers_what_was_sound(plant: Plant) -> None:
    plant.rollouts.start(GROUP, target=OLD, plan=Plan(healthy_for_s=0))
    plant.settle()
    first = plant.rollouts.start(GROUP, target=NEW, plan=Plan())
    newest = BundleRef(name="m", version="3", target="line-a/m-3.json", sha256="3" * 64)
    second = plant.rollouts.start(GROUP, target=newest, plan=CANARY)
    assert plant.rollouts.get(first.id).state == "superseded"
    assert second.before == OLD
    assert plant.everybody() == {"cam-0": "3", "cam-1": "2", "cam-2": "2"}


def test_orders_are_carried_out_and_refused_after_the_end(plant: Plant) -> None:
    plant.rollouts.start(GROUP, target=OLD, plan=Plan(healthy_for_s=0))
    plant.settle()
    begun = plant.rollouts.start(GROUP, target=NEW, plan=CANARY)
    assert plant.rollouts.order(begun.id, "pause").state == "paused"
    plant.answer("cam-0")
    plant.rollouts.tick(1.0)
    assert plant.everybody()["cam-1"] == "1"
    assert plant.rollouts.order(begun.id, "resume").state == "running"
    assert plant.rollouts.order(begun.id, "abort").state == "aborted"
    assert plant.everybody() == dict.fromkeys(plant.names, "1")
    with pytest.raises(RolloutError, match="has ended"):
        plant.rollouts.order(begun.id, "pause")
    with pytest.raises(RolloutError, match="no rollout"):
        plant.rollouts.order("line-a-99", "pause")


def test_a_device_with_a_wish_of_its_own_is_left_alone(plant: Plant) -> None:
    plant.database.set_desired("d/cam-0", OLD)
    begun = plant.rollouts.start(GROUP, target=NEW, plan=CANARY)
    assert begun.wished == ("cam-1",)
    plant.settle()
    assert plant.everybody() == {"cam-0": "1", "cam-1": "2", "cam-2": "2"}


def test_a_canary_that_nobody_knows_is_refused(plant: Plant) -> None:
    with pytest.raises(RolloutError, match="cam-9"):
        plant.rollouts.start(GROUP, target=NEW, plan=Plan(stages=(Stage(names=("cam-9",)),)))
    assert plant.database.desired() == {}


def test_defaults_suit_the_size_of_the_group() -> None:
    assert plan_for(1) == Plan(max_failed=1.0)
    assert plan_for(0) == Plan(max_failed=1.0)
    assert plan_for(5) == Plan(stages=(Stage(count=1),), max_failed=0.1)
    assert plan_for(5, canary=0).stages == ()
    assert plan_for(5, phases=(0.1, 0.5, 1.0)).stages == (Stage(share=0.1), Stage(share=0.5))
    assert plan_for(5, canary=("cam-1",), phases=(1.0,)).stages == (Stage(names=("cam-1",)),)
    for phases in ((0.5,), (0.5, 0.1, 1.0), (0.0, 1.0), (0.5, 1.5)):
        with pytest.raises(RolloutError):
            plan_for(5, phases=phases)
    for wrong in ({"max_failed": 1.5}, {"max_failed": -0.1}, {"healthy_for_s": -1.0}):
        with pytest.raises(RolloutError):
            plan_for(5, **wrong)  # type: ignore[arg-type]


def _killed_at(folder: Path, statement: int, work: str) -> bool:
    """Runs one piece of work in a child that ends itself at its n-th SQL statement; false once it has fewer."""
    child = os.fork()
    if child == 0:
        plant = Database.open(folder)
        seen = [0]

        def trace(_sql: str) -> None:
            seen[0] += 1
            if seen[0] == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        plant.connection.set_trace_callback(trace)
        rollouts = Rollouts(plant)
        if work == "start":
            rollouts.start(GROUP, target=NEW, plan=CANARY)
        elif work == "abort":
            rollouts.order(rollouts.list()[-1].id, "abort")
        else:
            rollouts.tick(50.0)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("work", ["start", "advance", "roll back", "abort", "supersede"])
def test_a_kill_at_any_statement_leaves_all_of_a_step_or_nothing(tmp_path: Path, work: str) -> None:
    (tmp_path / "before").mkdir()
    plant = Plant(tmp_path / "before")
    plant.rollouts.start(GROUP, target=OLD, plan=Plan(healthy_for_s=0))
    plant.settle()
    if work != "start":
        third = BundleRef(name="m", version="3", target="line-a/m-3.json", sha256="3" * 64)
        plant.rollouts.start(GROUP, target=third if work == "supersede" else NEW, plan=CANARY)
    if work == "advance":
        plant.answer("cam-0")
    if work == "roll back":
        plant.answer("cam-0", state="rolled_back")
    plant.database.close()
    statement = 0
    while True:
        statement += 1
        folder = tmp_path / str(statement)
        shutil.copytree(tmp_path / "before", folder)
        killed = _killed_at(folder, statement, "start" if work == "supersede" else work)
        plant = Plant(folder, born=False)
        consistent(plant)
        finished = plant.settle()
        assert finished.state in ("completed", "rolled_back", "aborted"), finished
        assert len(set(plant.everybody().values())) == 1
        plant.database.close()
        if not killed:
            break
    assert statement > 5


def consistent(plant: Plant) -> None:
    """The rollouts say exactly what the wishes say."""
    now = plant.everybody()
    running = plant.rollouts.list(unfinished=True)
    assert len(running) <= 1
    for rollout in running:
        if not rollout.grouped:
            assert {name for name in plant.names if now[name] == rollout.target.version} == set(rollout.wished)
    if not running:
        assert now == dict.fromkeys(plant.names, "1")


def test_a_last_will_keeps_what_the_birth_said(plant: Plant) -> None:
    with plant.database.transaction():
        Fleet(plant.database).write_up(Up(device="cam-0", up=True, boot_id="c", group=GROUP, board="Pi"))
        Fleet(plant.database).write_up(Up(device="cam-0", up=False, boot_id="c"))
    assert members(plant.database, GROUP) == ["cam-0", "cam-1", "cam-2"]
    row = plant.database.query("SELECT up, birth FROM devices WHERE device = 'cam-0'")[0]
    assert row["up"] == 0
    assert row["birth"].encode() == encode(Up(device="cam-0", up=False, boot_id="c", group=GROUP, board="Pi"))
