"""Maintenance windows: by the plant's clock, over midnight, over both changes of daylight saving."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside_link.maintenance_window import check_window, opening
from lineside_link.messages import MaintenanceWindow
from lineside_runtime.errors import ConfigError


def night(**changes: Any) -> MaintenanceWindow:
    return MaintenanceWindow(**{"start": "22:00", "end": "05:30", "timezone": "Europe/Berlin", **changes})


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-11-25 20:59", "2026-11-25 22:00"),  # Berlin is one hour ahead
        ("2026-11-25 21:00", None),
        ("2026-11-26 03:00", None),
        ("2026-11-26 04:29", None),
        ("2026-11-26 04:30", "2026-11-26 22:00"),
        ("2026-07-01 19:59", "2026-07-01 22:00"),  # two hours in summer
        ("2026-07-01 20:00", None),
    ],
)
def test_a_window_over_midnight(now: str, opens: str | None) -> None:
    found = opening(night(), utc(now))
    assert (None if found is None else f"{found:%Y-%m-%d %H:%M}") == opens


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-11-27 12:00", "2026-11-28 22:00"),  # a Friday
        ("2026-11-28 21:30", None),
        ("2026-11-29 03:00", None),  # Sunday morning belongs to Saturday's window
        ("2026-11-29 21:30", "2026-12-05 22:00"),
    ],
)
def test_a_window_on_some_days(now: str, opens: str | None) -> None:
    found = opening(night(days=("sat",)), utc(now))
    assert (None if found is None else f"{found:%Y-%m-%d %H:%M}") == opens


@pytest.mark.parametrize(
    ("start", "end", "closes"),
    [
        ("02:00", "03:00", "2026-03-29 02:00"),
        ("02:30", "03:00", "2026-03-29 01:30"),
        ("02:30", "03:15", "2026-03-29 01:15"),
        ("02:15", "02:45", "2026-03-29 01:45"),
        ("02:30", "04:00", "2026-03-29 02:00"),
        ("02:59", "02:58", "2026-03-30 00:58"),
    ],
)
def test_a_start_in_the_hour_that_does_not_exist_is_the_first_minute_after(start: str, end: str, closes: str) -> None:
    """On 29 March 2026 Berlin goes from 01:59 to 03:00. The line may run from the window's end on; a window that would
    have closed by then keeps its length."""
    window = night(start=start, end=end, days=("sun",))
    opens = opening(window, utc("2026-03-29 00:59"))
    assert opens is not None and f"{opens:%Y-%m-%d %H:%M}" == "2026-03-29 03:00"
    assert opening(window, opens) is None
    assert opening(window, utc(closes) - timedelta(minutes=1)) is None
    assert opening(window, utc(closes)) is not None


def test_an_end_in_the_hour_that_does_not_exist_keeps_the_length() -> None:
    window = night(start="01:30", end="02:30")
    assert opening(window, utc("2026-03-29 00:29")) is not None
    assert opening(window, utc("2026-03-29 00:30")) is None
    assert opening(window, utc("2026-03-29 01:29")) is None
    assert opening(window, utc("2026-03-29 01:30")) is not None


def test_the_hour_that_comes_twice() -> None:
    """On 25 October 2026 Berlin goes from 02:59 back to 02:00: the window is an hour longer."""
    window = night(start="01:00", end="04:00")
    assert opening(window, utc("2026-10-24 23:00")) is None
    assert opening(window, utc("2026-10-25 02:59")) is None
    assert opening(window, utc("2026-10-25 03:00")) is not None


@given(now=st.datetimes(datetime(2026, 1, 1), datetime(2036, 1, 1)), day=st.sampled_from(["mon", "thu", "sun"]))
def test_it_always_opens_within_nine_days(now: datetime, day: Any) -> None:
    at = now.replace(tzinfo=timezone.utc)
    found = opening(night(days=(day,)), at)
    if found is not None:
        assert 0 < (found - at).total_seconds() < 9 * 86400
        assert opening(night(days=(day,)), found) is None


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"start": "24:00"}, "window.start"),
        ({"end": "5:30"}, "window.end"),
        ({"end": "22:00"}, "window.start and window.end"),
        ({"timezone": "Europe/Atlantis"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"timezone": ""}, "timezone"),
    ],
)
def test_a_window_that_nobody_could_follow(changes: dict[str, str], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        check_window(night(**changes))
