"""Devices that are gone and of which no broker has said so."""

from __future__ import annotations

from lineside_hub.fleet.presence import LOOK_S, SILENT_S, PresenceMonitor
from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.results.database import Database
from lineside_link.messages import Up


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def write_birth(database: Database, device: str) -> None:
    with database.transaction():
        FleetTimeline(database).write_up(Up(device=device, up=True, boot_id="b", board="Pi 5", group="line-a"))


def connected(database: Database) -> set[str]:
    return {row["device"] for row in database.query("SELECT device FROM devices WHERE up = 1")}


def test_a_device_that_is_not_heard_is_gone_and_one_that_is_heard_or_comes_back_is_not(database: Database) -> None:
    clock = Clock()
    monitor = PresenceMonitor(database, clock=clock)
    for device in ("cam-1", "cam-2"):
        write_birth(database, device)
    monitor.connected()
    until_s = clock.now_s + SILENT_S + LOOK_S
    while clock.now_s < until_s:
        assert connected(database) == {"cam-1", "cam-2"}
        monitor.heard("cam-2")
        monitor.check(is_connected=True)
        clock.now_s += 60.0
    monitor.check(is_connected=True)
    assert connected(database) == {"cam-2"}
    (event,) = database.events(kind="down")
    assert (event.device, event.detail) == ("cam-1", "boot b, not heard for 20 minutes")
    (row,) = database.query("SELECT birth FROM devices WHERE device = 'cam-1'")
    assert "Pi 5" in row["birth"], "its birth still describes it"
    write_birth(database, "cam-1")
    monitor.heard("cam-1")
    monitor.check(is_connected=True)
    assert connected(database) == {"cam-1", "cam-2"}


def test_a_hub_that_hears_nobody_says_of_nobody_that_it_is_gone(database: Database) -> None:
    clock = Clock()
    monitor = PresenceMonitor(database, clock=clock)
    write_birth(database, "cam-1")
    for _ in range(30):
        clock.now_s += 120.0
        monitor.check(is_connected=False)
    monitor.connected()
    for _ in range(9):
        clock.now_s += 120.0
        monitor.check(is_connected=True)
    assert connected(database) == {"cam-1"}
