"""Moving a device to another group: desired states, access list, and what only a person at the device can do."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w

from lineside_hub.fleet.groups import move
from lineside_hub.fleet.listing import list_devices
from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.identity.authority import EnrolledGroups
from lineside_hub.identity.secure_site import enroll, secure
from lineside_hub.results.database import Database
from lineside_hub.rollouts.runner import members
from lineside_link.messages import BundleRef, Up
from lineside_runtime.errors import ConfigError, RolloutError
from tests.worlds.hub import make_repository, open_database

OLD = BundleRef(name="m", version="1", target="line-a/m-1.json", sha256="1" * 64)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    make_repository(tmp_path / "hub", ["line-a", "line-b"])
    config = {"folder": ".", "link": {"url": "mqtt://127.0.0.1:1883", "site": "test"}}
    (tmp_path / "hub" / "hub.toml").write_text(tomli_w.dumps(config))
    return tmp_path / "hub"


def be_born(hub: Path, group: str = "line-a") -> None:
    database = open_database(hub)
    with database.transaction():
        enrolled = EnrolledGroups(hub / "identity")
        FleetTimeline(database, group_of=enrolled.group_of).write_up(
            Up(device="cam-1", up=True, boot_id="b", group=group)
        )
    database.close()


def groups(hub: Path) -> tuple[list[str], list[str]]:
    database = Database.open(hub)
    try:
        return members(database, "line-a"), members(database, "line-b")
    finally:
        database.close()


def test_the_device_counts_to_its_new_group_and_keeps_no_desired_state_of_the_old_one(hub: Path) -> None:
    be_born(hub)
    database = Database.open(hub)
    database.set_desired("d/cam-1", OLD)
    database.close()
    moved = move(hub, "cam-1", "line-b")
    assert (moved.before, moved.group, moved.said, moved.access_list) == ("line-a", "line-b", "line-a", None)
    assert groups(hub) == ([], ["cam-1"])
    database = Database.open(hub)
    own = database.desired_state("d/cam-1")
    assert own is not None
    assert own.withdrawn
    assert [event.detail for event in database.events(kind="moved")] == ["from line-a to line-b"]
    database.close()
    (device,) = list_devices(hub)
    assert (device.group, device.said_group) == ("line-b", "line-a")
    be_born(hub, "line-b")  # a person has changed its agent.toml
    (device,) = list_devices(hub)
    assert (device.group, device.said_group) == ("line-b", "")


def test_the_broker_lets_it_read_the_new_groups_desired_state_only(hub: Path) -> None:
    secure(hub, hosts=["127.0.0.1"], port=8883)
    enroll(hub, "cam-1", group="line-a")
    certificate = (hub / "identity" / "issued" / "cam-1" / "cert.pem").read_bytes()
    moved = move(hub, "cam-1", "line-b")
    assert moved.access_list is not None
    text = moved.access_list.read_text()
    assert "g/line-b/desired" in text
    assert "g/line-a/desired" not in text
    assert moved.access_list.stat().st_mode & 0o777 == 0o600
    assert (hub / "identity" / "issued" / "cam-1" / "cert.pem").read_bytes() == certificate


def test_moving_twice_changes_nothing_and_the_unknown_is_refused(hub: Path) -> None:
    be_born(hub)
    move(hub, "cam-1", "line-b")
    assert move(hub, "cam-1", "line-b").before == "line-b"
    database = Database.open(hub)
    assert len(database.events(kind="moved")) == 1
    database.close()
    with pytest.raises(RolloutError, match="line-x"):
        move(hub, "cam-1", "line-x")
    with pytest.raises(RolloutError, match="cam-9"):
        move(hub, "cam-9", "line-b")
    with pytest.raises(ConfigError):
        move(hub, "cam/1", "line-b")


def security_events(hub: Path) -> list[str]:
    database = Database.open(hub)
    try:
        return [event.detail for event in database.events(kind="security")]
    finally:
        database.close()


def test_device_belongs_to_the_group_that_it_is_enrolled_for_whatever_it_says(hub: Path) -> None:
    secure(hub, hosts=["127.0.0.1"], port=8883)
    enroll(hub, "cam-1", group="line-a")
    be_born(hub, "line-a")
    assert security_events(hub) == []
    for _ in range(2):  # a birth is retained: the hub hears of it again at each connection
        be_born(hub, "line-b")
        assert groups(hub) == (["cam-1"], [])
    assert security_events(hub) == ["says that it is of group 'line-b', but is enrolled for 'line-a': refused"]
    (device,) = list_devices(hub)
    assert (device.group, device.said_group) == ("line-a", "line-b")
    enroll(hub, "cam-1", group="line-b")
    be_born(hub, "line-b")
    assert groups(hub) == ([], ["cam-1"])


@pytest.mark.parametrize("says", ["line-a", "line-b"])
def test_device_that_is_enrolled_anew_for_another_group_keeps_no_desired_state_of_the_old_one(
    hub: Path, says: str
) -> None:
    secure(hub, hosts=["127.0.0.1"])
    enroll(hub, "cam-1", group="line-a")
    be_born(hub)
    with Database.open(hub) as database:
        database.set_desired("d/cam-1", OLD)
    be_born(hub)
    with Database.open(hub) as database:
        assert not getattr(database.desired_state("d/cam-1"), "withdrawn", True)
    enroll(hub, "cam-1", group="line-b")
    be_born(hub, says)
    with Database.open(hub) as database:
        assert getattr(database.desired_state("d/cam-1"), "withdrawn", False)
    assert groups(hub) == ([], ["cam-1"])


def test_moved_device_that_still_names_its_old_group_is_no_attack(hub: Path) -> None:
    secure(hub, hosts=["127.0.0.1"], port=8883)
    enroll(hub, "cam-1", group="line-a")
    be_born(hub, "line-a")
    move(hub, "cam-1", "line-b")
    be_born(hub, "line-a")
    assert groups(hub) == ([], ["cam-1"])
    assert security_events(hub) == []
