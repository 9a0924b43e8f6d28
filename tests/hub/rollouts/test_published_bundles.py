"""Rollouts of what is published already, without an offline key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.rollouts import published_bundles
from lineside_hub.rollouts.published_bundles import find_published, list_published
from lineside_hub.rollouts.push import push
from lineside_link.messages import MaintenanceWindow
from lineside_runtime.errors import AccuracyGateError, ConfigError, RolloutError, SignatureError, TargetNotFoundError
from tests.worlds.bundles import make_opaque_bundle
from tests.worlds.fleet import BundleFleet
from tests.worlds.hub import make_database

WINDOW = MaintenanceWindow(start="22:00", end="05:00", timezone="Europe/Berlin")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[BundleFleet]:
    """Two versions signed for a group whose key is away, and a group whose key is the hub's."""
    hub = tmp_path / "hub"
    Repository.create(hub, groups=["line-a", "line-b"], online_groups=["canary"])
    make_database(hub)
    for version in ("1.0.0", "2.0.0"):
        bundle = make_opaque_bundle(tmp_path / version, version=version, model=version.encode())
        push(hub, bundle.path, group="line-a", sign_only=True)
    (hub / "keys").rename(tmp_path / "vault")
    made = BundleFleet(hub)
    yield made
    made.close()


def test_a_signed_bundle_is_rolled_out_and_back_without_a_key(fleet: BundleFleet) -> None:
    assert fleet.rollouts.list() == []
    old, new = (find_published(fleet.folder, f"surface@{version}.0.0") for version in (1, 2))
    published_bundles.start(fleet.folder, old, group="line-a", canary=0, healthy_for_s=0)
    assert fleet.settle().state == "completed"
    begun = published_bundles.start(fleet.folder, new, group="line-a", healthy_for_s=0, window=WINDOW)
    with pytest.raises(RolloutError, match="has not ended"):
        published_bundles.roll_back(fleet.folder, begun.rollout)
    canary = fleet.desired("cam-0")
    assert canary is not None and canary.window == WINDOW
    assert fleet.settle().state == "completed"
    back = published_bundles.roll_back(fleet.folder, begun.rollout)
    assert (back.target, fleet.settle().state) == (old.ref, "completed")
    assert set(fleet.everybody().values()) == {"1.0.0"}
    desired = fleet.desired("cam-0")
    assert desired is not None and desired.window is None  # nobody waits for a window to go back


def test_only_a_group_whose_key_is_the_hubs_gets_a_new_signature(fleet: BundleFleet) -> None:
    bundle = find_published(fleet.folder, "surface@2.0.0")
    with pytest.raises(SignatureError, match="--group line-b --sign-only"):
        published_bundles.start(fleet.folder, bundle, group="line-b")
    begun = published_bundles.start(fleet.folder, bundle, group="canary")
    assert begun.ref.target == "canary/surface-2.0.0.json"
    newest = list_published(fleet.folder)[0]
    assert (newest.ref.identity, newest.groups) == ("surface@2.0.0", ("canary", "line-a"))
    assert fleet.rollouts.list()[-1].group == "canary"


def test_what_cannot_be_rolled_out_changes_nothing(fleet: BundleFleet) -> None:
    bundle = find_published(fleet.folder, "surface@2.0.0")
    with pytest.raises(TargetNotFoundError):
        find_published(fleet.folder, "surface@3.0.0")
    with pytest.raises(ConfigError):
        published_bundles.start(
            fleet.folder, bundle, group="line-a", window=MaintenanceWindow(start="5", end="6", timezone="Mars")
        )
    with pytest.raises(RolloutError):
        published_bundles.start(fleet.folder, bundle, group="nowhere")
    assert fleet.rollouts.list() == []


@pytest.mark.parametrize("reported", [True, False])
def test_a_bundle_below_the_baseline_needs_an_override_for_each_new_group_and_none_to_go_back(
    tmp_path: Path, reported: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = tmp_path / "hub"
    Repository.create(hub, groups=["line-a"], online_groups=["canary", "trial"])
    make_database(hub)
    gate = {"name": "baseline", "status": "unproven", "detail": "no annotated frames"}
    report = json.dumps({"gates": [gate] if reported else []}).encode()  # one from before the gate has none
    bad = make_opaque_bundle(tmp_path / "bad", {"report.json": report}, model=b"bad")
    push(hub, bad.path, group="canary", override="baseline: no annotated frames")

    def overrides() -> list[str]:
        with Database.open(hub) as database:
            return [event.detail.rpartition("; ")[2] for event in database.events(kind="override")]

    with pytest.raises(AccuracyGateError, match="no annotated frames"):  # as the dashboard starts it
        published_bundles.start(hub, find_published(hub, "surface@1.0.0"), group="trial")
    by_name = ["push", "surface@1.0.0", "--hub", str(hub), "--group", "line-a"]
    assert main(by_name) == 1
    assert "[6003]" in capsys.readouterr().err
    assert (overrides(), Repository.open(hub).hashes_of("line-a")) == (["signed for canary"], {})
    assert main([*by_name, "--below-baseline"]) == 0
    assert overrides() == ["signed for canary", "signed for line-a"]
    better = make_opaque_bundle(tmp_path / "better", version="2.0.0", model=b"better")
    push(hub, better.path, group="line-a")
    assert main(by_name) == 0
    assert len(overrides()) == 2


def test_a_bundle_whose_report_says_that_it_passed_goes_to_another_group(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    Repository.create(hub, groups=["line-a"], online_groups=["canary"])
    make_database(hub)
    report = json.dumps({"gates": [{"name": "baseline", "status": "passed"}]}).encode()
    push(hub, make_opaque_bundle(tmp_path / "good", {"report.json": report}).path, group="line-a")
    begun = published_bundles.start(hub, find_published(hub, "surface@1.0.0"), group="canary")
    assert begun.ref.target == "canary/surface-1.0.0.json"
