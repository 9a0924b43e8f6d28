"""When a device may activate an update, in the plant's local time. Pure.

The message is `lineside_link.messages.MaintenanceWindow`. A window opens at ``start`` of each of its days and closes at
the next ``end``. On the night when the clock springs forward over ``start``, it opens at the first minute after; if it
would have closed by then, it stays open for as long as in other nights.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from lineside_link.messages import MaintenanceWindow
from lineside_runtime.errors import ConfigError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")


def check_window(window: MaintenanceWindow) -> None:
    """Checks a window.

    Raises:
        ConfigError: A time is not ``HH:MM``, both are the same, or the time zone is not known here.
    """
    for name, text in (("start", window.start), ("end", window.end)):
        if not _TIME.fullmatch(text):
            raise ConfigError(f"window.{name}", expected="HH:MM, from 00:00 to 23:59", actual=text)
    if window.start == window.end:
        raise ConfigError("window.start and window.end", expected="two different times", actual=window.start)
    _zone(window)


def opening(window: MaintenanceWindow, now: datetime.datetime) -> datetime.datetime | None:
    """Returns when the window opens next, in the plant's time; ``None`` while it is open.

    Args:
        window: Checked, or from a message.
        now: With its own time zone.

    Raises:
        ConfigError: As for `check_window`.
    """
    check_window(window)
    for begins, ends in _spans(window, now):
        if begins <= now < ends:
            return None
        if begins > now:
            return begins.astimezone(_zone(window))
    raise ConfigError("window.days", expected="a day on which it opens", actual=window.days)


def closed(window: MaintenanceWindow | None, now: datetime.datetime | None, *, fetching: bool) -> str:
    """Returns what the deployment waits for; empty if for nothing.

    Args:
        window: From a message; ``None`` for at once.
        now: The time, with its zone; ``None`` while the clock is not set.
        fetching: Before a fetch; otherwise before the change.
    """
    if window is None or (fetching and window.fetch == "at_once"):
        return ""
    if now is None:
        return f"the clock is not set, so whether the maintenance window ({window.timezone}) is open can't be told"
    try:
        opens = opening(window, now)
    except ConfigError as error:
        return f"the maintenance window can't be followed: {error.message}; push again with another one"
    return f"the maintenance window opens {opens:%Y-%m-%d %H:%M} ({window.timezone})" if opens is not None else ""


def _spans(window: MaintenanceWindow, now: datetime.datetime) -> Iterator[tuple[datetime.datetime, datetime.datetime]]:
    """Yields the windows from yesterday on, in UTC: differences of local times would ignore a clock change."""
    today = now.astimezone(_zone(window)).date()
    for ahead in range(-1, 9):
        day = today + datetime.timedelta(days=ahead)
        if window.days and DAYS[day.weekday()] not in window.days:
            continue
        last = day if window.end > window.start else day + datetime.timedelta(days=1)
        start, end = _local(window, day, window.start), _local(window, last, window.end)
        first = start
        while (begins := first.astimezone(datetime.timezone.utc)).astimezone(first.tzinfo) != first:
            first += datetime.timedelta(minutes=1)  # the clock springs over it
        length = end - start  # by the wall clock: both are of one zone
        closes = end.astimezone(datetime.timezone.utc)
        yield begins, closes if closes > begins else begins + length


def _local(window: MaintenanceWindow, day: datetime.date, text: str) -> datetime.datetime:
    return datetime.datetime.combine(day, datetime.time.fromisoformat(text), tzinfo=_zone(window))


def _zone(window: MaintenanceWindow) -> ZoneInfo:
    try:
        return ZoneInfo(window.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f"window.timezone {window.timezone!r} is not known here",
            expected="an IANA name such as Europe/Berlin",
            action="Correct it, or install the tzdata package.",
        ) from error
