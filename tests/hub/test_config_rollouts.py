"""Configurations in stages: a canary first, the rest when it is healthy, back again on a failure share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lineside.cli import main
from lineside_hub.fleet.listing import list_rollouts
from lineside_hub.repository.pruning import prune
from lineside_hub.repository.repository import Repository
from lineside_hub.rollouts.push import PushResult, push, push_config, set_desired
from lineside_link.messages import ConfigRef, ConfigReport, MaintenanceWindow, Problem, Reported
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError, RolloutError
from tests.worlds.fleet import RecordedFleet

GROUP = "line-a"
STRICT = b"[inspect]\nconfidence_threshold = 0.9\n"
LOOSE = b"[inspect]\nconfidence_threshold = 0.1\n"
NIGHT = MaintenanceWindow(start="02:00", end="03:00", timezone="UTC")
EVENING = MaintenanceWindow(start="18:00", end="19:00", timezone="UTC")


class ConfigFleet(RecordedFleet):
    """Devices that follow the configuration that is desired of them, or refuse it, as `Configuration` does."""

    def __init__(self, folder: Path, devices: int = 4) -> None:
        super().__init__(folder, devices=devices)
        self.installed: dict[str, ConfigRef | None] = dict.fromkeys(self.names)

    def answer(self, *names: str, code: int = 0) -> None:
        for name in names or self.names:
            desired = self.desired(name)
            if desired is None or desired.config is None:
                continue
            error = Problem(code=code, error="E", message="m") if code else None
            self.installed[name] = self.installed[name] if code else desired.config
            config = ConfigReport(
                epoch=desired.epoch, gen=desired.gen, installed=self.installed[name], wanted=desired.config, error=error
            )
            self.report(Reported(device=name, epoch=desired.epoch, gen=desired.gen, state="idle", configuration=config))

    def push(self, data: bytes, **plan: Any) -> PushResult[ConfigRef]:
        return push_config(self.folder, data, group=GROUP, **({"healthy_for_s": 0.0} | plan))

    def settle(self, first_s: float = 1.0) -> str:
        for second in range(20):
            self.answer()
            self.rollouts.tick(first_s + second)
        self.answer()
        return self.rollouts.list()[-1].state

    def follows(self) -> dict[str, str]:
        return {name: ref.sha256[:8] if ref is not None else "" for name, ref in self.installed.items()}

    def wanted(self, name: str) -> str:
        desired = self.desired(name)
        return desired.config.sha256 if desired is not None and desired.config is not None else ""


@pytest.fixture
def fleet(repository: Repository) -> Iterator[ConfigFleet]:
    made = ConfigFleet(repository.folder)
    yield made
    made.close()


def test_a_canary_first_and_the_rest_when_it_is_healthy(fleet: ConfigFleet) -> None:
    pushed = fleet.push(STRICT)
    assert pushed.devices == ("cam-0",)
    base = fleet.wanted("cam-1")
    assert base not in ("", pushed.ref.sha256), "an empty one, which was signed too: agent.toml alone"
    assert fleet.wanted("cam-0") == pushed.ref.sha256
    fleet.rollouts.tick(1.0)
    assert fleet.wanted("cam-1") == base, "the canary hasn't answered"
    fleet.answer("cam-0")
    fleet.rollouts.tick(2.0)
    assert {fleet.wanted(name) for name in fleet.names} == {pushed.ref.sha256}
    assert fleet.settle(3.0) == "completed"
    assert set(fleet.follows().values()) == {pushed.ref.sha256[:8]}
    (summary,) = list_rollouts(fleet.folder)
    assert (summary.rollout.kind, summary.rollout.target.identity) == ("config", pushed.ref.identity)
    assert summary.members == 4


def test_a_canary_that_refuses_it_takes_nobody_along(fleet: ConfigFleet) -> None:
    first = fleet.push(LOOSE)
    fleet.settle()
    second = fleet.push(STRICT)
    fleet.answer("cam-0", code=5002)
    fleet.rollouts.tick(100.0)
    assert fleet.rollouts.get(second.rollout).state == "rolled_back"
    assert {fleet.wanted(name) for name in fleet.names} == {first.ref.sha256}


def test_too_many_failures_give_all_what_they_had(fleet: ConfigFleet) -> None:
    pushed = fleet.push(STRICT, canary=0, max_failed=0.3)
    fleet.answer("cam-0", "cam-1")
    fleet.answer("cam-2", "cam-3", code=5002)
    fleet.rollouts.tick(1.0)
    rollout = fleet.rollouts.get(pushed.rollout)
    assert (rollout.state, rollout.before is not None) == ("rolled_back", True)
    fleet.answer()
    assert pushed.ref.sha256[:8] not in fleet.follows().values()
    assert "stay" not in rollout.reason


def test_a_configuration_that_a_group_of_one_refuses_ends_with_its_error_and_the_last_good_one(
    repository: Repository, make_bundle: Callable[..., Bundle]
) -> None:
    fleet = ConfigFleet(repository.folder, devices=1)
    good = fleet.push(LOOSE)
    assert fleet.settle() == "completed"
    bad = fleet.push(STRICT, healthy_for_s=60.0)
    fleet.answer(code=2002)
    fleet.rollouts.tick(100.0)
    ended = fleet.rollouts.get(bad.rollout)
    assert (ended.state, ended.reason) == ("rolled_back", "1 of 1 device failed: cam-0: [2002] m")
    assert fleet.wanted("cam-0") == good.ref.sha256
    fleet.close()


def test_a_bundle_that_a_group_of_one_rolls_back_is_not_called_completed(
    repository: Repository, make_bundle: Callable[..., Bundle]
) -> None:
    fleet = ConfigFleet(repository.folder, devices=1)
    pushed = push(fleet.folder, make_bundle("1.0.0").path, group=GROUP, healthy_for_s=0.0)
    desired = fleet.desired("cam-0")
    assert desired is not None
    problem = Problem(code=5001, error="E", message="the golden frame differs", expected="no difference")
    report = Reported(device="cam-0", epoch=desired.epoch, gen=desired.gen, state="rolled_back", wanted=pushed.ref)
    fleet.report(msgspec.structs.replace(report, error=problem))
    for second in range(5):
        fleet.rollouts.tick(float(second))
    ended = fleet.rollouts.get(pushed.rollout or "")
    reason = "cam-0: [5001] the golden frame differs; expected no difference"
    assert (ended.state, ended.reason.partition(": ")[2]) == ("rolled_back", reason)
    fleet.close()


def test_a_bundles_rollout_stays_at_its_count_when_a_configuration_is_pushed(
    repository: Repository, make_bundle: Callable[..., Bundle]
) -> None:
    fleet = ConfigFleet(repository.folder, devices=2)
    pushed = push(fleet.folder, make_bundle("1.0.0").path, group=GROUP, canary=0, healthy_for_s=5.0)
    for name in fleet.names:
        desired = fleet.desired(name)
        assert desired is not None
        answer = Reported(device=name, epoch=desired.epoch, gen=desired.gen, state="active", wanted=pushed.ref)
        fleet.report(msgspec.structs.replace(answer, installed=pushed.ref))
    fleet.rollouts.tick(1.0)
    for plan in ({}, {"canary": 0}):  # a desired state of the canary alone, and one of the group
        fleet.push(STRICT, **plan)
        [shown] = list_rollouts(fleet.folder, rollout=pushed.rollout)
        assert (shown.count.healthy, shown.count.pending, shown.members) == (2, 0, 2)
    fleet.rollouts.tick(2.0)
    fleet.rollouts.tick(7.0)
    assert fleet.rollouts.get(pushed.rollout or "").state == "completed"
    fleet.close()


def test_what_was_shed_is_no_failure(fleet: ConfigFleet) -> None:
    pushed = fleet.push(STRICT)
    fleet.answer("cam-0", code=4004)
    fleet.rollouts.tick(1.0)
    assert fleet.rollouts.get(pushed.rollout).state == "running"
    fleet.answer("cam-0")
    fleet.rollouts.tick(2.0)
    assert fleet.rollouts.get(pushed.rollout).whole_group


def test_pause_resume_and_abort(fleet: ConfigFleet, capsys: pytest.CaptureFixture[str]) -> None:
    pushed = fleet.push(STRICT, phases=[0.5, 1.0])
    assert len(pushed.devices) == 2
    hub = str(fleet.folder)
    assert main(["fleet", "rollout", "pause", pushed.rollout, "--hub", hub]) == 0
    fleet.answer("cam-0", "cam-1")
    for second in range(5):
        fleet.rollouts.tick(float(second))
    assert fleet.wanted("cam-3") != pushed.ref.sha256
    assert main(["fleet", "rollout", "resume", pushed.rollout, "--hub", hub]) == 0
    for second in range(5, 9):
        fleet.rollouts.tick(float(second))
    assert fleet.wanted("cam-3") == pushed.ref.sha256
    capsys.readouterr()
    assert main(["fleet", "rollout", "abort", pushed.rollout, "--hub", hub, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "aborted"
    fleet.answer()
    assert pushed.ref.sha256[:8] not in fleet.follows().values()
    assert main(["fleet", "rollout", "show", pushed.rollout, "--hub", hub]) == 0
    assert "config@" in capsys.readouterr().out


def test_a_withdrawn_configuration_comes_back_with_no_later_push(
    fleet: ConfigFleet, make_bundle: Callable[..., Bundle]
) -> None:
    """A canary's withdrawn desired state holds the configuration that failed; a canary must not revive it."""
    bad = fleet.push(STRICT)
    fleet.answer("cam-0", code=5002)
    fleet.rollouts.tick(1.0)
    assert fleet.rollouts.get(bad.rollout).state == "rolled_back"
    fleet.answer()
    pushed = push(fleet.folder, make_bundle("1.0.0").path, group=GROUP)
    assert pushed.devices == ("cam-0",)
    own = fleet.database.desired_state("d/cam-0")
    assert own is not None
    assert own.bundle == pushed.ref
    assert fleet.wanted("cam-0") == fleet.wanted("cam-1") != bad.ref.sha256


def test_a_bundle_brings_the_configuration_along_without_asking_anew(
    fleet: ConfigFleet, make_bundle: Callable[..., Bundle]
) -> None:
    """What a device refused isn't tried again because something else was pushed."""
    config = fleet.push(STRICT, canary=0, max_failed=1.0)
    fleet.answer("cam-1", code=5002)
    fleet.answer("cam-0", "cam-2", "cam-3")
    fleet.rollouts.tick(1.0)
    asked = fleet.desired("cam-1")
    push(fleet.folder, make_bundle("1.0.0").path, group=GROUP, canary=0)
    brought = fleet.desired("cam-1")
    assert asked is not None
    assert brought is not None
    assert brought.config == config.ref
    assert brought.gen > asked.gen
    assert brought.generation_of("config") == asked.generation_of("config")


def test_a_newer_configuration_takes_over_and_one_of_another_kind_waits(
    fleet: ConfigFleet, make_bundle: Callable[..., Bundle]
) -> None:
    first = fleet.push(STRICT)
    with pytest.raises(RolloutError, match="another config"):
        push(fleet.folder, make_bundle("1.0.0").path, group=GROUP)
    second = fleet.push(LOOSE)
    assert fleet.rollouts.get(first.rollout).state == "superseded"
    assert fleet.settle() == "completed"
    assert set(fleet.follows().values()) == {second.ref.sha256[:8]}


@pytest.mark.parametrize("window", [None, EVENING])
@pytest.mark.parametrize("canary", [0, 1])
def test_a_configuration_and_its_abort_leave_a_waiting_bundle_its_window(
    fleet: ConfigFleet, make_bundle: Callable[..., Bundle], window: MaintenanceWindow | None, canary: int
) -> None:
    push(fleet.folder, make_bundle("1.0.0").path, group=GROUP, canary=0, window=NIGHT)
    pushed = fleet.push(STRICT, canary=canary, window=window)

    def windows(name: str) -> tuple[MaintenanceWindow | None, ...]:
        desired = fleet.desired(name)
        assert desired is not None
        return desired.window_of("bundle"), desired.window_of("config"), desired.window

    assert windows("cam-0") == (NIGHT, window, NIGHT), "the last one is for older agents, which have it for bundles"
    if canary:
        assert windows("cam-1") == (NIGHT, None, NIGHT), "agent.toml alone need not wait for the bundle"
        fleet.answer("cam-0")
        for second in (1.0, 2.0):
            fleet.rollouts.tick(second)
    assert windows("cam-1") == (NIGHT, window, NIGHT)
    fleet.rollouts.order(pushed.rollout, "abort")
    assert {windows(name) for name in fleet.names} == {(NIGHT, None, NIGHT)}


def answer_with_bundle(fleet: ConfigFleet, *names: str, code: int = 0) -> None:
    for name in names or fleet.names:
        desired = fleet.desired(name)
        assert desired is not None
        report = Reported(device=name, epoch=desired.epoch, gen=desired.gen, state="active", wanted=desired.bundle)
        failed = {"state": "failed", "error": Problem(code=code, error="E", message="m")}
        fleet.report(msgspec.structs.replace(report, **(failed if code else {"installed": desired.bundle})))


def parts(fleet: ConfigFleet, name: str) -> tuple[str, str, MaintenanceWindow | None, MaintenanceWindow | None]:
    """Version of the bundle, digest of the configuration and their windows, as they are desired of a device."""
    desired = fleet.desired(name)
    assert desired is not None and desired.bundle is not None and desired.config is not None
    windows = desired.window_of("bundle"), desired.window_of("config")
    return desired.bundle.version, desired.config.sha256, *windows


def roll_out_two_bundles(fleet: ConfigFleet, make_bundle: Callable[..., Bundle]) -> str:
    """Gives all devices bundle 1.0.0, then begins 2.0.0 for the whole group; returns the rollout."""
    push(fleet.folder, make_bundle("1.0.0").path, group=GROUP, canary=0, healthy_for_s=0.0)
    answer_with_bundle(fleet)
    fleet.rollouts.tick(1.0)
    return push(fleet.folder, make_bundle("2.0.0").path, group=GROUP, canary=0, window=NIGHT).rollout or ""


def test_the_timeline_names_what_changed_on_a_device_that_has_another_rollouts_artifact(
    fleet: ConfigFleet, make_bundle: Callable[..., Bundle]
) -> None:
    bundle = roll_out_two_bundles(fleet, make_bundle)
    fleet.push(LOOSE, canary=0)
    answer_with_bundle(fleet, "cam-2", code=4004)
    fleet.rollouts.tick(2.0)
    pushed = fleet.push(STRICT, canary=0)

    def newest() -> tuple[str, str]:
        told = [event for event in fleet.database.events() if "device cam-2" in event.detail]
        return told[-1].kind, told[-1].bundle

    assert newest() == ("pushed", pushed.ref.identity)
    fleet.rollouts.order(pushed.rollout, "abort")
    fleet.rollouts.order(bundle, "abort")
    assert newest()[0] == "withdrawn" and newest()[1].endswith("@2.0.0")
    canary = fleet.push(LOOSE)
    fleet.rollouts.order(canary.rollout, "abort")
    withdrawn = [event.bundle for event in fleet.database.events(kind="withdrawn")]
    assert withdrawn[-1] == canary.ref.identity


@pytest.mark.parametrize("fails", [False, True])
def test_a_bundle_that_is_taken_back_is_taken_back_on_the_canary_of_a_configuration_too(
    fleet: ConfigFleet, make_bundle: Callable[..., Bundle], fails: bool
) -> None:
    bundle = roll_out_two_bundles(fleet, make_bundle)
    config = fleet.push(STRICT, window=EVENING)
    base = fleet.wanted("cam-1")
    before = fleet.desired("cam-0")
    assert before is not None and parts(fleet, "cam-0") == ("2.0.0", config.ref.sha256, NIGHT, EVENING)
    if fails:
        answer_with_bundle(fleet, code=5002)
        fleet.rollouts.tick(2.0)
    else:
        fleet.rollouts.order(bundle, "abort")
    assert fleet.rollouts.get(bundle).state == ("rolled_back" if fails else "aborted")
    assert parts(fleet, "cam-0") == ("1.0.0", config.ref.sha256, None, EVENING)
    assert {parts(fleet, name)[:3] for name in fleet.names[1:]} == {("1.0.0", base, None)}
    after = fleet.desired("cam-0")
    assert after is not None and after.gen > before.gen
    assert after.generation_of("config") == before.generation_of("config"), "the configuration is not asked for anew"
    assert after.generation_of("bundle") > before.generation_of("bundle")
    assert fleet.settle(3.0) == "completed"
    assert {parts(fleet, name)[:2] for name in fleet.names} == {("1.0.0", config.ref.sha256)}


def test_a_device_that_is_asked_again_for_a_bundle_follows_its_groups_configuration(
    fleet: ConfigFleet, make_bundle: Callable[..., Bundle]
) -> None:
    bundle = roll_out_two_bundles(fleet, make_bundle)
    first = fleet.push(LOOSE, canary=0)
    answer_with_bundle(fleet, "cam-2", code=4004)
    fleet.rollouts.tick(2.0)
    asked = fleet.database.desired_state("d/cam-2")
    assert asked is not None and asked.rollout == bundle
    base = fleet.rollouts.get(first.rollout).before
    assert base is not None
    second = fleet.push(STRICT, canary=0)
    assert parts(fleet, "cam-2") == parts(fleet, "cam-1") == ("2.0.0", second.ref.sha256, NIGHT, None)
    fleet.rollouts.order(second.rollout, "abort")
    assert parts(fleet, "cam-2") == parts(fleet, "cam-1") == ("2.0.0", base.sha256, NIGHT, None)
    again = fleet.database.desired_state("d/cam-2")
    assert again is not None and again.rollout == again.pushed_by("bundle") == bundle
    assert again.generation_of("bundle") == asked.generation_of("bundle")


def test_a_bundle_for_one_device_leaves_its_configuration_its_window(
    fleet: ConfigFleet, make_bundle: Callable[..., Bundle]
) -> None:
    ref = push(fleet.folder, make_bundle("1.0.0").path, group=GROUP, sign_only=True).ref
    fleet.push(STRICT, window=NIGHT)
    set_desired(fleet.folder, ref, device="cam-0")
    desired = fleet.desired("cam-0")
    assert desired is not None and desired.config is not None
    assert (desired.window_of("bundle"), desired.window_of("config")) == (None, NIGHT)


def test_a_type_that_no_bundle_of_the_group_has_is_refused_when_it_is_pushed(
    fleet: ConfigFleet, make_bundle: Callable[..., Bundle]
) -> None:
    strange = b"[inspect.thresholds]\nnowhere = 0.4\n"
    fleet.push(strange)  # of the bundles that devices brought along the hub knows no type
    fleet.settle()
    push(fleet.folder, make_bundle("1.0.0").path, group=GROUP)
    region = b"[[inspect.regions]]\nkind = 'ignore'\npolygon = [[0, 0], [1, 0], [1, 1]]\ntypes = ['nowhere']\n"
    for wrong, path in ((strange, "thresholds"), (region, "regions")):
        with pytest.raises(ConfigError, match=rf"\$\.inspect\.{path}: the bundle has no type 'nowhere'"):
            fleet.push(wrong)
    with pytest.raises(ConfigError, match=r"\$\.inspect\.variant: .* has no 'onnx-fast'"):
        fleet.push(b"[inspect]\nvariant = 'onnx-fast'\n")
    with pytest.raises(
        RolloutError, match="another bundle"
    ):  # it has this type, so that only its rollout is waited for
        fleet.push(strange.replace(b"nowhere", b"scratch"))


def test_what_a_rollout_would_go_back_to_is_not_pruned(fleet: ConfigFleet) -> None:
    fleet.push(LOOSE)
    fleet.settle()
    before = fleet.wanted("cam-1")
    for number in range(1, 4):
        push_config(fleet.folder, b"[inspect]\nthreads = %d\n" % number, group=GROUP, healthy_for_s=0.0)
    prune(fleet.folder, keep=1, dry_run=False)
    targets = Repository.open(fleet.folder).targets_of(GROUP)
    assert any(before[:16] in target for target in targets)
