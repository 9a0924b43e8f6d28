"""What a device waits for before it changes over, and that it says so."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.machine import BundleMachine, step
from lineside_link.clock import RELEASED, ClockFloor
from lineside_link.maintenance_window import closed
from lineside_link.messages import BundleRef, Desired, MaintenanceWindow, decode, encode

BUNDLE = BundleRef(name="surface", version="1.0.0", target="line/surface-1.0.0.json", sha256="0" * 64)
NOON = datetime(2026, 11, 25, 12, tzinfo=timezone.utc)
NIGHT = NOON + timedelta(hours=11)


def make_window(**changes: Any) -> MaintenanceWindow:
    return MaintenanceWindow(**{"start": "22:00", "end": "05:00", "timezone": "Europe/Berlin", **changes})


def make_desired(**window: Any) -> Desired:
    return Desired(epoch=1, gen=1, bundle=BUNDLE, window=make_window(**window))


def test_without_a_window_nothing_is_waited_for() -> None:
    assert closed(None, None, fetching=False) == ""


def test_the_changeover_waits_and_the_fetch_does_as_it_is_told() -> None:
    assert closed(make_window(), NOON, fetching=True) == ""
    assert (
        closed(make_window(), NOON, fetching=False) == "the maintenance window opens 2026-11-25 22:00 (Europe/Berlin)"
    )
    assert closed(make_window(), NIGHT, fetching=False) == ""
    assert "opens" in closed(make_window(fetch="in_window"), NOON, fetching=True)
    assert closed(make_window(fetch="in_window"), NIGHT, fetching=True) == ""


def test_who_does_not_know_the_time_waits_and_says_so() -> None:
    assert "clock is not set" in closed(make_window(), None, fetching=False)
    assert "can't be followed" in closed(make_window(timezone="Europe/Atlantis"), NOON, fetching=False)


@pytest.mark.parametrize(
    ("now", "floor", "known"),
    [
        (datetime(1970, 1, 1, tzinfo=timezone.utc), None, False),
        (RELEASED - timedelta(seconds=1), None, False),
        (NOON, None, True),
        (NOON, NOON - timedelta(days=1), True),
        (NOON, NOON + timedelta(days=1), False),
    ],
)
def test_a_clock_that_cannot_be_right_is_not_set(
    tmp_path: Path, now: datetime, floor: datetime | None, known: bool
) -> None:
    if floor is not None:
        (tmp_path / "clock").write_text(floor.isoformat())
    assert ClockFloor(tmp_path / "clock", now=lambda: now).set_time() == (now if known else None)


def test_the_same_desired_state_with_another_window_changes_the_window_alone() -> None:
    begun, _ = step(BundleMachine(), DesiredChanged("group", make_desired()))
    sooner = make_desired(start="12:00")
    after, actions = step(begun, DesiredChanged("group", sooner))
    assert actions == ()
    assert after.desired == sooner
    assert (after.state, after.attempt) == (begun.state, begun.attempt)
    older = Desired(epoch=1, gen=0, bundle=BUNDLE)
    assert step(after, DesiredChanged("group", older)) == (after, ())


@pytest.mark.parametrize("windows", [{}, {"bundle": make_window(start="23:00"), "config": None}])
def test_the_same_desired_state_with_other_windows_of_its_parts_changes_them_alone(
    windows: dict[str, MaintenanceWindow | None],
) -> None:
    first = msgspec.structs.replace(make_desired(), windows={"bundle": make_window(start="21:00")})
    begun, _ = step(BundleMachine(), DesiredChanged("group", first))
    after, actions = step(begun, DesiredChanged("group", msgspec.structs.replace(first, windows=windows)))
    assert actions == ()
    assert after.desired is not None and after.desired.windows == windows
    assert (after.state, after.attempt) == (begun.state, begun.attempt)


def test_each_part_has_its_own_window_and_the_single_one_of_an_older_hub_counts_for_all() -> None:
    older = make_desired()
    assert older.window_of("bundle") == older.window_of("agent") == older.window
    newer = msgspec.structs.replace(older, windows={"bundle": make_window(start="23:00"), "config": None})
    read = decode(encode(newer), Desired)
    assert (read.window_of("bundle"), read.window_of("config")) == (make_window(start="23:00"), None)
    assert read.window_of("agent") == older.window
