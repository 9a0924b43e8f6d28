"""An installation of the code before the restructuring is taken over without loss; see ``installation/README.md``."""

from __future__ import annotations

import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_agent.config import read_config
from lineside_agent.deployment.artifacts.configuration import read_followed
from lineside_agent.deployment.events import Done, Rest, Rested, Started
from lineside_agent.deployment.machine import AgentMachine, BundleMachine, step
from lineside_agent.deployment.preflight import check
from lineside_agent.deployment.slots import Slots
from lineside_agent.storage.records import RecordStore
from lineside_agent.storage.state_file import peek_state
from lineside_hub.fleet.listing import list_devices, list_rollouts, show_device, timeline
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.rollouts.push import push
from tests.peers import Broker, wait_for
from tests.worlds.agent import AgentProcess
from tests.worlds.bundles import make_bundle
from tests.worlds.hub import HubProcess, query

ARCHIVE = Path(__file__).parent / "installation" / "installation.tar.xz"
CONFIGURATION = "a810fea590272b492a39860ab044bc87e0f457de8549b3305d635e9d156c5442"
REFUSED = "c8cdb36466bc778f273340f6e2ccd19023f69fbda35ff157feec1bb4b8022121"
TARGETS = ("line/bright-spots-1.0.0.json", "line/bright-spots-2.0.0.json")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "frames").mkdir()
    return tmp_path


def test_records_numbers_and_outbox_of_a_device_are_read(old: Path) -> None:
    store = RecordStore(old / "state")
    try:
        rows = store.rows(0, 100)
        assert [row.seq for row in rows] == list(range(1, 21))
        assert [row.part_id for row in rows] == [f"{number:04d}.png" for number in range(20)]
        assert [row.verdict for row in rows] == ["pass", "reject"] * 10
        assert (store.watermark, store.pending, store.last_seq) == (12, 8, 20)
        assert store.next_sequence(rows[0].source) == 20
        assert store.unsent_images == 4
        assert store.epoch == "e0a28ba09897deb2"
    finally:
        store.close()


def test_slots_bundle_and_configuration_of_a_device_are_read(old: Path) -> None:
    machine = peek_state(old / "state" / "update.json", BundleMachine)
    assert machine is not None
    assert (machine.state, machine.installed_slot, machine.previous_slot) == ("active", "b", "a")
    slots = Slots(old / "state")
    assert slots.current() == "b"
    for slot, reference in (("a", machine.previous), ("b", machine.installed)):
        assert reference is not None
        assert slots.open(slot).digest == reference.sha256  # type: ignore[arg-type]  # a and b are slots
    config = read_config(old / "agent.toml")
    assert read_followed(config).inspect.confidence_threshold == 0.75
    assert check(old / "agent.toml").bundle == "bright-spots@2.0.0"


@pytest.mark.parametrize("state", ["fetching", "verifying", "staged", "switching", "health_check", "active"])
def test_a_bundle_update_that_was_cut_is_ended(old: Path, state: str) -> None:
    machine = peek_state(old / "machines" / f"bundle-{state}.json", BundleMachine)
    assert machine is not None
    machine, actions = step(machine, Started())
    pending = list(actions)
    while pending:
        action = pending.pop(0)
        if (attempt := getattr(action, "attempt", None)) is not None:
            machine, more = step(machine, Done(attempt))
            pending += more
        elif isinstance(action, Rest):
            machine, more = step(machine, Rested())
            pending += more
    assert machine.installed is not None
    assert (machine.state, machine.installed.version, machine.installed_slot) == ("active", "2.0", "b")


def test_a_bundle_that_was_rolled_back_is_not_tried_again(old: Path) -> None:
    machine = peek_state(old / "machines" / "bundle-rolled_back.json", BundleMachine)
    assert machine is not None
    started, actions = step(machine, Started())
    assert isinstance(actions[-1], Rest)
    looked, actions = step(started, Rested())
    assert actions == ()
    assert looked.error == machine.error
    assert (looked.state, looked.installed) == ("rolled_back", machine.installed)


@pytest.mark.parametrize("state", ["switching", "health_check"])
def test_a_trial_of_an_agent_goes_on_in_the_new_agent(old: Path, state: str) -> None:
    machine = peek_state(old / "machines" / f"agent-{state}.json", AgentMachine)
    assert machine is not None
    wanted = machine.wanted
    assert machine.attempt_id == f"7/2/{2:064x}"
    machine, actions = step(machine, Started(wanted, "b", on_trial=True))
    assert (machine.state, len(actions)) == ("health_check", 1)
    machine, _ = step(machine, Done(machine.attempt))
    assert (machine.state, machine.installed, machine.installed_slot) == ("active", wanted, "b")


@pytest.mark.parametrize("state", ["fetching", "verifying", "staged", "active"])
def test_an_agent_update_that_was_cut_before_the_switch_goes_on(old: Path, state: str) -> None:
    machine = peek_state(old / "machines" / f"agent-{state}.json", AgentMachine)
    assert machine is not None
    running = machine.installed
    slot = machine.installed_slot
    machine, _ = step(machine, Started(running, slot))
    assert (machine.state, machine.installed) == (state, running)


def test_repository_devices_and_results_of_a_hub_are_read(old: Path) -> None:
    hub = old / "hub"
    repository = Repository.open(hub)
    assert repository.groups() == ("line",)
    assert set(TARGETS) <= set(repository.targets_of("line"))
    repository.roles.renew_offline("root", "targets", "line")
    repository.roles.renew()
    published = repository.publish(make_bundle(old / "next", version="3.0.0", gain=43.0), "line")
    assert published.identity == "bright-spots@3.0.0"
    (device,) = list_devices(hub)
    assert (device.name, device.group, device.installed, device.results) == ("cam-1", "line", "bright-spots@2.0.0", 12)
    detail = show_device(hub, "cam-1")
    assert detail.group_desired is not None
    assert detail.group_desired.config is not None
    assert (detail.group_desired.gen, detail.group_desired.config.sha256) == (5, REFUSED)
    assert len(list_rollouts(hub)) == 4
    assert {event.kind for _, event in timeline(hub, "cam-1")} >= {"up", "down", "active", "health_check"}
    with Database.open(hub) as database:
        assert database.acknowledgements()["cam-1"].seq == 12
        assert database.next_gen() == 6


@pytest.fixture
def plant(old: Path, embedded_broker: Broker) -> Iterator[tuple[HubProcess, AgentProcess]]:
    """The old hub and the old device as processes of today's code, at a broker of today."""
    for name in ("agent.toml", "hub/hub.toml"):
        path = old / name
        lines = [
            f'url = "{embedded_broker.url}"' if line.startswith("url = ") else line
            for line in path.read_text().splitlines()
        ]
        path.write_text("\n".join(lines))
    repository = Repository.open(old / "hub")
    repository.roles.renew_offline("root", "targets", "line")
    repository.roles.renew()
    hub, agent = HubProcess(old / "hub", old / "hub.log"), AgentProcess(old)
    hub.start()
    agent.start()
    yield hub, agent
    for process in (agent, hub):
        if process.alive:
            process.signal(signal.SIGTERM)
        process.stop()


@pytest.mark.peer
def test_hub_and_device_go_on_together(old: Path, plant: tuple[HubProcess, AgentProcess]) -> None:
    _, agent = plant
    hub = old / "hub"

    def parts() -> list[str]:
        return [part for (part,) in query(hub, "SELECT part_id FROM results ORDER BY seq")]

    wait_for(lambda: len(parts()) >= 20, 60, what=lambda: f"the outbox\n{agent.log[-2000:]}")
    assert parts() == [f"{number:04d}.png" for number in range(20)]
    assert len(query(hub, "SELECT DISTINCT epoch FROM results")) == 1
    wait_for(lambda: agent.status.get("installed") == "bright-spots@2.0.0", 60, what="the bundle")
    assert agent.status["configuration"] == CONFIGURATION
    assert "brigth" in str(agent.status["configuration_error"])
    images = [path.name for path in (old / "state" / "images").rglob("*.png")]
    assert len(images) == 10
    gen = push(hub, make_bundle(old / "next", version="3.0.0", gain=43.0).path, group="line", healthy_for_s=0.0).gen
    wait_for(lambda: agent.status.get("installed") == "bright-spots@3.0.0", 60, what=lambda: agent.log[-2000:])
    wait_for(lambda: agent.machine.gen == gen, 60, what="its generation")
    assert agent.status["configuration"] == CONFIGURATION
    assert REFUSED[:12] not in agent.log, "what was refused is not tried again"
