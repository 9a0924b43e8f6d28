"""Rollouts of what is published already, without an offline key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_hub.repository.repository import Repository
from lineside_hub.rollouts import published_bundles
from lineside_hub.rollouts.published_bundles import find_published, list_published
from lineside_hub.rollouts.push import push
from lineside_link.messages import MaintenanceWindow
from lineside_runtime.errors import ConfigError, RolloutError, SignatureError, TargetNotFoundError
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
