"""The first agent that a hub pushes: what there is to go back to, and who stays where there is nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_agent.deployment.self_update.payload import NAME, Payload
from lineside_hub.repository.repository import Repository
from lineside_hub.rollouts.push import push_agent
from lineside_link.messages import AgentReport, BundleRef, Reported
from lineside_runtime.errors import RolloutError
from tests.agent.deployment.self_update.wheels import make_payload, program_wheel
from tests.worlds.fleet import RecordedFleet

GROUP = "line-a"


class AgentFleet(RecordedFleet):
    """Devices that were flashed with an agent, by their own reports."""

    def __init__(self, repository: Repository, payloads: Path) -> None:
        super().__init__(repository.folder)
        self.repository = repository
        self.payloads = payloads
        self.flashed = self.payload("1.0")
        self.runs: dict[str, BundleRef] = {name: self.reference(self.flashed) for name in self.names}
        self.answer()

    def payload(self, version: str) -> Payload:
        return make_payload(
            self.payloads / f"p-{version}", program_wheel(self.payloads / "w", version, f"print({version})")
        )

    def reference(self, payload: Payload) -> BundleRef:
        """As `AgentSlots.reference` gives it: without a target."""
        return BundleRef(name=NAME, version=payload.manifest.version, target="", sha256=payload.digest)

    def answer(self, *names: str, follow: bool = False) -> None:
        for name in names or self.names:
            desired = self.desired(name)
            if follow and desired is not None and desired.agent is not None:
                self.runs[name] = desired.agent
            said = AgentReport(
                state="active" if desired is not None and desired.agent is not None else "idle",
                epoch=desired.epoch if desired else 0,
                gen=desired.gen if desired else 0,
                wanted=desired.agent if desired else None,
                installed=self.runs[name],
            )
            self.report(Reported(device=name, agent=said))

    def versions(self) -> dict[str, str]:
        return {name: ref.version for name, ref in self.runs.items()}


@pytest.fixture
def fleet(repository: Repository, tmp_path: Path) -> Iterator[AgentFleet]:
    made = AgentFleet(repository, tmp_path)
    yield made
    made.close()


def test_with_the_flashed_payload_the_whole_group_goes_back(fleet: AgentFleet) -> None:
    pushed = push_agent(
        fleet.repository.folder, fleet.payload("2.0").path, group=GROUP, before=fleet.flashed.path, healthy_for_s=0
    )
    assert pushed.devices == ("cam-0",)
    fleet.answer(follow=True)
    assert fleet.versions() == {"cam-0": "2.0", "cam-1": "1.0", "cam-2": "1.0"}
    fleet.rollouts.order(pushed.rollout, "abort")
    fleet.answer(follow=True)
    assert set(fleet.versions().values()) == {"1.0"}
    ended = fleet.rollouts.get(pushed.rollout)
    assert ended.before is not None
    assert (ended.before.version, ended.before.target != "", "stay" in ended.reason) == ("1.0", True, False)


def test_what_the_devices_run_is_found_among_what_is_published(fleet: AgentFleet) -> None:
    fleet.repository.publish_agent(fleet.flashed, GROUP)
    pushed = push_agent(fleet.repository.folder, fleet.payload("2.0").path, group=GROUP, canary=0, max_failed=0.3)
    fleet.answer("cam-0", follow=True)
    fleet.rollouts.order(pushed.rollout, "abort")
    fleet.answer(follow=True)
    assert set(fleet.versions().values()) == {"1.0"}


def test_without_it_the_end_says_who_stays_and_why(fleet: AgentFleet) -> None:
    pushed = push_agent(fleet.repository.folder, fleet.payload("2.0").path, group=GROUP, healthy_for_s=0)
    fleet.answer("cam-0", follow=True)
    fleet.rollouts.order(pushed.rollout, "abort")
    reason = fleet.rollouts.get(pushed.rollout).reason
    assert "cam-0 stay with lineside-agent@2.0" in reason
    assert "no agent that the group had before" in reason
    assert any("cam-0 stay" in event.detail for event in fleet.database.events(kind="rollout"))


def test_another_payload_than_the_devices_run_is_no_way_back(
    fleet: AgentFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    other = fleet.payload("1.1")
    new = fleet.payload("2.0")
    with pytest.raises(RolloutError, match=r"cam-0 \(1.0\)"):
        push_agent(fleet.repository.folder, new.path, group=GROUP, before=other.path)
    assert fleet.rollouts.list() == []
    hub = str(fleet.repository.folder)
    arguments = ["push", "--agent", str(new.path), "--before", str(other.path), "--hub", hub, "--group", GROUP]
    assert main(arguments) == 1
    assert "[5003]" in capsys.readouterr().err
    assert main(["push", "--config", str(new.path), "--before", str(other.path), "--hub", hub, "--group", GROUP]) == 1
    assert main([*arguments[:4], str(fleet.flashed.path), *arguments[5:]]) == 0


def test_a_group_that_was_given_an_agent_goes_back_to_that(fleet: AgentFleet) -> None:
    first = push_agent(fleet.repository.folder, fleet.payload("2.0").path, group=GROUP, canary=0, healthy_for_s=0)
    fleet.answer(follow=True)
    for second in range(3):
        fleet.rollouts.tick(float(second))
    assert fleet.rollouts.get(first.rollout).state == "completed"
    second_push = push_agent(fleet.repository.folder, fleet.payload("3.0").path, group=GROUP)
    before = fleet.rollouts.get(second_push.rollout).before
    assert before is not None
    assert before.version == "2.0"
