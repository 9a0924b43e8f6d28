"""The first agent that a hub pushes: what there is to go back to, and who stays where there is nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_agent.self_update.payload import NAME, Payload
from lineside_hub.database import Database
from lineside_hub.fleet import Fleet
from lineside_hub.push import push_agent
from lineside_hub.repository import Repository
from lineside_hub.rollouts import Rollouts
from lineside_link.messages import AgentReport, BundleRef, Reported, Up
from lineside_runtime.errors import RolloutError
from tests.agent.self_update.wheels import make_payload, program_wheel

GROUP = "line-a"


class Plant:
    """Devices that were flashed with an agent, by their own reports."""

    def __init__(self, repository: Repository, folder: Path) -> None:
        self.repository = repository
        self.folder = folder
        self.database = Database.open(repository.folder)
        self.rollouts = Rollouts(self.database)
        self.names = ("cam-0", "cam-1", "cam-2")
        self.flashed = self.payload("1.0")
        self.runs: dict[str, BundleRef] = {name: self.reference(self.flashed) for name in self.names}
        with self.database.transaction():
            for name in self.names:
                Fleet(self.database).write_up(Up(device=name, up=True, boot_id="b", group=GROUP))
        self.report()

    def payload(self, version: str) -> Payload:
        return make_payload(
            self.folder / f"p-{version}", program_wheel(self.folder / "w", version, f"print({version})")
        )

    def reference(self, payload: Payload) -> BundleRef:
        """As `AgentSlots.reference` gives it: without a target."""
        return BundleRef(name=NAME, version=payload.manifest.version, target="", sha256=payload.digest)

    def report(self, *names: str, follow: bool = False) -> None:
        for name in names or self.names:
            own = self.database.wish(f"d/{name}")
            wish = own if own is not None and not own.withdrawn else self.database.wish(f"g/{GROUP}")
            if follow and wish is not None and wish.agent is not None:
                self.runs[name] = wish.agent
            said = AgentReport(
                state="active" if wish is not None and wish.agent is not None else "idle",
                epoch=wish.epoch if wish else 0,
                gen=wish.gen if wish else 0,
                wanted=wish.agent if wish else None,
                installed=self.runs[name],
            )
            with self.database.transaction():
                Fleet(self.database).write_reported(Reported(device=name, agent=said))

    def versions(self) -> dict[str, str]:
        return {name: ref.version for name, ref in self.runs.items()}


@pytest.fixture
def plant(repository: Repository, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(repository, tmp_path)
    yield made
    made.database.close()


def test_with_the_flashed_payload_the_whole_group_goes_back(plant: Plant) -> None:
    pushed = push_agent(
        plant.repository.folder, plant.payload("2.0").path, group=GROUP, before=plant.flashed.path, healthy_for_s=0
    )
    assert pushed.devices == ("cam-0",)
    plant.report(follow=True)
    assert plant.versions() == {"cam-0": "2.0", "cam-1": "1.0", "cam-2": "1.0"}
    plant.rollouts.order(pushed.rollout, "abort")
    plant.report(follow=True)
    assert set(plant.versions().values()) == {"1.0"}
    ended = plant.rollouts.get(pushed.rollout)
    assert ended.before is not None
    assert (ended.before.version, ended.before.target != "", "stay" in ended.reason) == ("1.0", True, False)


def test_what_the_devices_run_is_found_among_what_is_published(plant: Plant) -> None:
    plant.repository.publish_agent(plant.flashed, GROUP)
    pushed = push_agent(plant.repository.folder, plant.payload("2.0").path, group=GROUP, canary=0, max_failed=0.3)
    plant.report("cam-0", follow=True)
    plant.rollouts.order(pushed.rollout, "abort")
    plant.report(follow=True)
    assert set(plant.versions().values()) == {"1.0"}


def test_without_it_the_end_says_who_stays_and_why(plant: Plant) -> None:
    pushed = push_agent(plant.repository.folder, plant.payload("2.0").path, group=GROUP, healthy_for_s=0)
    plant.report("cam-0", follow=True)
    plant.rollouts.order(pushed.rollout, "abort")
    reason = plant.rollouts.get(pushed.rollout).reason
    assert "cam-0 stay with lineside-agent@2.0" in reason
    assert "no agent that the group had before" in reason
    assert any("cam-0 stay" in event.detail for event in plant.database.events(kind="rollout"))


def test_another_payload_than_the_devices_run_is_no_way_back(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    other = plant.payload("1.1")
    new = plant.payload("2.0")
    with pytest.raises(RolloutError, match=r"cam-0 \(1.0\)"):
        push_agent(plant.repository.folder, new.path, group=GROUP, before=other.path)
    assert plant.rollouts.list() == []
    hub = str(plant.repository.folder)
    arguments = ["push", "--agent", str(new.path), "--before", str(other.path), "--hub", hub, "--group", GROUP]
    assert main(arguments) == 1
    assert "[5003]" in capsys.readouterr().err
    assert main(["push", "--config", str(new.path), "--before", str(other.path), "--hub", hub, "--group", GROUP]) == 1
    assert main([*arguments[:4], str(plant.flashed.path), *arguments[5:]]) == 0


def test_a_group_that_was_given_an_agent_goes_back_to_that(plant: Plant) -> None:
    first = push_agent(plant.repository.folder, plant.payload("2.0").path, group=GROUP, canary=0, healthy_for_s=0)
    plant.report(follow=True)
    for second in range(3):
        plant.rollouts.tick(float(second))
    assert plant.rollouts.get(first.rollout).state == "completed"
    second_push = push_agent(plant.repository.folder, plant.payload("3.0").path, group=GROUP)
    before = plant.rollouts.get(second_push.rollout).before
    assert before is not None
    assert before.version == "2.0"
