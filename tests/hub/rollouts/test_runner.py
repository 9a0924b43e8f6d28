"""The rollout's rim: value and desired states are one transaction, wherever the process is killed."""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.machine import BundleMachine, why_ignored
from lineside_hub.fleet.listing import show_device
from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.results.database import Database
from lineside_hub.rollouts.machine import RolloutPlan, RolloutStage
from lineside_hub.rollouts.push import release
from lineside_hub.rollouts.runner import Rollouts, members, plan_for
from lineside_link.messages import BundleRef, MaintenanceWindow, Up, encode
from lineside_runtime.errors import RolloutError
from tests.worlds.fleet import BundleFleet

GROUP = "line-a"
OLD = BundleRef(name="m", version="1", target="line-a/m-1.json", sha256="1" * 64)
NEW = BundleRef(name="m", version="2", target="line-a/m-2.json", sha256="2" * 64)
CANARY = RolloutPlan(stages=(RolloutStage(count=1),), max_failed=0.3, healthy_for_s=0)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[BundleFleet]:
    made = BundleFleet(tmp_path)
    yield made
    made.close()


def test_a_rollout_reaches_the_canary_then_all(fleet: BundleFleet) -> None:
    fleet.rollouts.start(GROUP, target=OLD, plan=RolloutPlan(healthy_for_s=0))
    assert fleet.settle().state == "completed"
    fleet.rollouts.start(GROUP, target=NEW, plan=CANARY)
    assert fleet.everybody() == {"cam-0": "2", "cam-1": "1", "cam-2": "1"}
    fleet.rollouts.tick(1.0)
    assert fleet.everybody() == {"cam-0": "2", "cam-1": "1", "cam-2": "1"}  # its old answer is no answer
    fleet.answer("cam-0")
    canary = BundleMachine(device_desired=fleet.desired("cam-0"))
    assert fleet.rollouts.tick(2.0)
    assert fleet.everybody() == dict.fromkeys(fleet.names, "2")
    heard = DesiredChanged("group", fleet.database.desired_state(f"g/{GROUP}"))  # before its own is withdrawn
    assert why_ignored(canary, heard) == ""
    own = fleet.database.desired_state("d/cam-0")
    assert own is not None
    assert own.withdrawn
    assert fleet.settle().state == "completed"
    assert not fleet.rollouts.tick(99.0)


def test_a_failed_canary_takes_nobody_along(fleet: BundleFleet) -> None:
    fleet.rollouts.start(GROUP, target=OLD, plan=RolloutPlan(healthy_for_s=0))
    fleet.settle()
    begun = fleet.rollouts.start(GROUP, target=NEW, plan=CANARY)
    fleet.answer("cam-0", state="rolled_back")
    fleet.rollouts.tick(1.0)
    assert fleet.rollouts.get(begun.id).state == "rolled_back"
    assert fleet.everybody() == dict.fromkeys(fleet.names, "1")
    kinds = [(event.kind, event.detail) for event in fleet.database.events(kind="rollout")]
    assert "rolled_back" in kinds[-1][1]
    [text] = show_device(fleet.folder, "cam-0", with_counts=False).rolled_back
    assert text.startswith("bundle m@2 was rolled back by the hub (line-a-2): 1 of 1 device failed: cam-0: [5001] m")
    fleet.rollouts.start(GROUP, target=OLD, plan=RolloutPlan(healthy_for_s=0))
    assert show_device(fleet.folder, "cam-0", with_counts=False).rolled_back == ()


def test_too_many_failures_in_the_group_give_all_what_they_had(fleet: BundleFleet) -> None:
    fleet.rollouts.start(GROUP, target=OLD, plan=RolloutPlan(healthy_for_s=0))
    fleet.settle()
    fleet.rollouts.start(GROUP, target=NEW, plan=RolloutPlan(max_failed=0.3))
    fleet.answer("cam-0")
    fleet.answer("cam-1", state="failed")
    fleet.rollouts.tick(1.0)
    assert fleet.everybody() == dict.fromkeys(fleet.names, "1")


@pytest.mark.parametrize("code", [1003, 1010, 4003, 4004])
def test_load_that_was_shed_is_no_failure_and_is_asked_again(fleet: BundleFleet, code: int) -> None:
    begun = fleet.rollouts.start(GROUP, target=NEW, plan=CANARY)
    before = fleet.targeted("cam-0")
    fleet.answer("cam-0", state="failed", code=code)
    fleet.rollouts.tick(1.0)
    assert fleet.rollouts.get(begun.id).state == "running"
    assert fleet.targeted("cam-0")[1] > before[1]
    fleet.answer("cam-0")
    fleet.rollouts.tick(2.0)
    assert fleet.everybody() == dict.fromkeys(fleet.names, "2")


def test_a_newer_push_takes_over_and_remembers_what_was_sound(fleet: BundleFleet) -> None:
    fleet.rollouts.start(GROUP, target=OLD, plan=RolloutPlan(healthy_for_s=0))
    fleet.settle()
    first = fleet.rollouts.start(GROUP, target=NEW, plan=RolloutPlan())
    newest = BundleRef(name="m", version="3", target="line-a/m-3.json", sha256="3" * 64)
    second = fleet.rollouts.start(GROUP, target=newest, plan=CANARY)
    assert fleet.rollouts.get(first.id).state == "superseded"
    assert second.before == OLD
    assert fleet.everybody() == {"cam-0": "3", "cam-1": "2", "cam-2": "2"}


def test_a_canary_is_released_only_after_its_rollout(fleet: BundleFleet) -> None:
    fleet.rollouts.start(GROUP, target=OLD, plan=RolloutPlan(healthy_for_s=0))
    fleet.settle()
    begun = fleet.rollouts.start(GROUP, target=NEW, plan=CANARY)
    with pytest.raises(RolloutError, match=f"belongs to rollout {begun.id}") as caught:
        release(fleet.folder, "cam-0")
    assert caught.value.action == f"Wait for it, or abort it: lineside fleet rollout abort {begun.id}"
    assert fleet.everybody() == {"cam-0": "2", "cam-1": "1", "cam-2": "1"}
    assert fleet.settle().state == "completed"
    assert not release(fleet.folder, "cam-0")
    fleet.database.set_desired("d/cam-0", OLD)
    fleet.rollouts.start(GROUP, target=NEW, plan=CANARY)
    assert release(fleet.folder, "cam-0"), "a push to it alone is no part of a rollout"


def test_orders_are_carried_out_and_refused_after_the_end(fleet: BundleFleet) -> None:
    fleet.rollouts.start(GROUP, target=OLD, plan=RolloutPlan(healthy_for_s=0))
    fleet.settle()
    begun = fleet.rollouts.start(GROUP, target=NEW, plan=CANARY)
    assert fleet.rollouts.order(begun.id, "pause").state == "paused"
    fleet.answer("cam-0")
    fleet.rollouts.tick(1.0)
    assert fleet.everybody()["cam-1"] == "1"
    assert fleet.rollouts.order(begun.id, "resume").state == "running"
    assert fleet.rollouts.order(begun.id, "abort").state == "aborted"
    assert fleet.everybody() == dict.fromkeys(fleet.names, "1")
    with pytest.raises(RolloutError, match="has ended"):
        fleet.rollouts.order(begun.id, "pause")
    with pytest.raises(RolloutError, match="no rollout"):
        fleet.rollouts.order("line-a-99", "pause")


def test_a_device_with_a_desired_state_of_its_own_is_left_alone(fleet: BundleFleet) -> None:
    fleet.database.set_desired("d/cam-0", OLD)
    begun = fleet.rollouts.start(GROUP, target=NEW, plan=CANARY)
    assert begun.targeted == ("cam-1",)
    fleet.settle()
    assert fleet.everybody() == {"cam-0": "1", "cam-1": "2", "cam-2": "2"}


def test_a_canary_that_nobody_knows_is_refused(fleet: BundleFleet) -> None:
    with pytest.raises(RolloutError, match="cam-9"):
        fleet.rollouts.start(GROUP, target=NEW, plan=RolloutPlan(stages=(RolloutStage(names=("cam-9",)),)))
    assert fleet.database.desired_states() == {}


def test_bundle_and_agent_wait_each_for_its_own_window(fleet: BundleFleet) -> None:
    night, evening = (MaintenanceWindow(start=start, end="23:00", timezone="UTC") for start in ("02:00", "18:00"))
    agent = BundleRef(name="agent", version="2", target="line-a/agent-2.agent.json", sha256="a" * 64)

    def windows() -> tuple[MaintenanceWindow | None, ...]:
        desired = fleet.desired("cam-0")
        assert desired is not None
        return desired.window_of("bundle"), desired.window_of("agent"), desired.window

    fleet.rollouts.start(GROUP, target=NEW, plan=RolloutPlan(window=night))
    assert windows() == (night, night, night)
    update = fleet.rollouts.start(GROUP, target=agent, plan=RolloutPlan(), kind="agent")
    assert windows() == (night, None, night), "an older agent has one window: its bundle must not go live at once"
    fleet.rollouts.order(update.id, "abort")
    assert windows() == (night, None, night)
    fleet.rollouts.start(GROUP, target=agent, plan=RolloutPlan(window=evening), kind="agent")
    bundle = fleet.rollouts.start(GROUP, target=OLD, plan=RolloutPlan())
    assert windows() == (None, evening, evening)
    fleet.rollouts.order(bundle.id, "abort")
    assert windows() == (None, evening, evening)


def test_a_canary_goes_back_at_once_whatever_window_its_group_was_given_before(fleet: BundleFleet) -> None:
    night = MaintenanceWindow(start="22:00", end="05:00", timezone="UTC")
    first = fleet.rollouts.start(GROUP, target=OLD, plan=RolloutPlan(healthy_for_s=0, window=night))
    assert fleet.settle().state == "completed"

    def window(name: str) -> tuple[str, MaintenanceWindow | None]:
        own, group = (fleet.database.desired_state(scope) for scope in (f"d/{name}", f"g/{GROUP}"))
        machine = BundleMachine(device_desired=own, group_desired=group)
        assert machine.desired is not None and machine.desired.bundle is not None
        return machine.desired.bundle.version, machine.window

    tried = fleet.rollouts.start(GROUP, target=NEW, plan=RolloutPlan(stages=CANARY.stages, window=night))
    assert (window("cam-0"), window("cam-1")) == (("2", night), ("1", night))
    fleet.rollouts.order(tried.id, "abort")
    assert (window("cam-0"), window("cam-1")) == (("1", None), ("1", night)), "one that was away for days waits"
    fleet.rollouts.start(GROUP, target=NEW, plan=RolloutPlan(window=night))
    assert (window("cam-0"), window("cam-1")) == (("2", night), ("2", night))
    fleet.database.set_desired("d/cam-0", OLD)
    assert window("cam-0") == ("1", None)
    release(fleet.folder, "cam-0")
    assert window("cam-0") == ("2", night), "it follows its group as the others do"
    assert fleet.rollouts.get(first.id).state == "completed"


def test_defaults_suit_the_size_of_the_group() -> None:
    assert plan_for(1) == RolloutPlan(max_failed=1.0)
    assert plan_for(0) == RolloutPlan(max_failed=1.0)
    assert plan_for(5) == RolloutPlan(stages=(RolloutStage(count=1),), max_failed=0.1)
    assert plan_for(5, canary=0).stages == ()
    assert plan_for(5, phases=(0.1, 0.5, 1.0)).stages == (RolloutStage(share=0.1), RolloutStage(share=0.5))
    assert plan_for(5, canary=("cam-1",), phases=(1.0,)).stages == (RolloutStage(names=("cam-1",)),)
    for phases in ((0.5,), (0.5, 0.1, 1.0), (0.0, 1.0), (0.5, 1.5)):
        with pytest.raises(RolloutError):
            plan_for(5, phases=phases)
    refused: tuple[dict[str, Any], ...] = ({"max_failed": 1.5}, {"max_failed": -0.1}, {"healthy_for_s": -1.0})
    # JSON has no infinity: a rollout with one could not be read any more, and no other either.
    refused += ({"healthy_for_s": math.inf}, {"healthy_for_s": math.nan}, {"max_failed": math.nan}, {"canary": ()})
    refused += ({"healthy_for_s": 1e12},)  # ends in the year 33,658, which no date can be
    for wrong in refused:
        with pytest.raises(RolloutError):
            plan_for(5, **wrong)


def _killed_at(folder: Path, statement: int, work: str) -> bool:
    """Runs one piece of work in a child that ends itself at its n-th SQL statement; false once it has fewer.

    Statements that only read do not count: the file is the same before and after them.
    """
    child = os.fork()
    if child == 0:
        database = Database.open(folder)
        seen = [0]

        def trace(sql: str) -> None:
            seen[0] += not sql.lstrip().upper().startswith("SELECT")
            if seen[0] == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        database.connection.set_trace_callback(trace)
        rollouts = Rollouts(database)
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
    fleet = BundleFleet(tmp_path / "before")
    fleet.rollouts.start(GROUP, target=OLD, plan=RolloutPlan(healthy_for_s=0))
    fleet.settle()
    if work != "start":
        third = BundleRef(name="m", version="3", target="line-a/m-3.json", sha256="3" * 64)
        fleet.rollouts.start(GROUP, target=third if work == "supersede" else NEW, plan=CANARY)
    if work == "advance":
        fleet.answer("cam-0")
    if work == "roll back":
        fleet.answer("cam-0", state="rolled_back")
    fleet.close()
    statement = 0
    while True:
        statement += 1
        folder = tmp_path / str(statement)
        shutil.copytree(tmp_path / "before", folder)
        killed = _killed_at(folder, statement, "start" if work == "supersede" else work)
        fleet = BundleFleet(folder, born=False)
        consistent(fleet)
        finished = fleet.settle()
        assert finished.state in ("completed", "rolled_back", "aborted"), finished
        assert len(set(fleet.everybody().values())) == 1
        fleet.close()
        if not killed:
            break
    assert statement > 5


def consistent(fleet: BundleFleet) -> None:
    """The rollouts say exactly what the desired states say."""
    now = fleet.everybody()
    running = fleet.rollouts.list(unfinished=True)
    assert len(running) <= 1
    for rollout in running:
        if not rollout.whole_group:
            assert {name for name in fleet.names if now[name] == rollout.target.version} == set(rollout.targeted)
    if not running:
        assert now == dict.fromkeys(fleet.names, "1")


def test_a_last_will_keeps_what_the_birth_said(fleet: BundleFleet) -> None:
    with fleet.database.transaction():
        FleetTimeline(fleet.database).write_up(Up(device="cam-0", up=True, boot_id="c", group=GROUP, board="Pi"))
        FleetTimeline(fleet.database).write_up(Up(device="cam-0", up=False, boot_id="c"))
    assert members(fleet.database, GROUP) == ["cam-0", "cam-1", "cam-2"]
    row = fleet.database.query("SELECT up, birth FROM devices WHERE device = 'cam-0'")[0]
    assert row["up"] == 0
    assert row["birth"].encode() == encode(Up(device="cam-0", up=False, boot_id="c", group=GROUP, board="Pi"))
