"""Jinja2's environment of the dashboard, with filters for times, sizes and shares."""

from __future__ import annotations

import datetime
import functools
import time
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from lineside_hub.fleet.listing import DeviceSummary

TEMPLATES = Path(__file__).with_name("templates")

_TILES_KEPT = 4096

_AGES = ((365 * 86_400, "y"), (86_400, "d"), (3600, "h"), (60, "min"))


def make_templates() -> jinja2.Environment:
    """Returns the environment; whatever a template prints is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update({"refresh": refresh, "tiles": tiles})
    made.filters.update({"when": when, "age": age, "duration": duration, "size": size, "percent": percent})
    return made


def refresh(url: str, *, every_s: float = 5.0) -> Markup:
    """Returns the attributes of the element ``live``, which loads itself again from the page that it is on."""
    return Markup(
        'data-refresh hx-get="{url}" hx-select="#live" hx-target="this" hx-swap="outerHTML" '
        'hx-trigger="every {every_s:g}s"'
    ).format(url=url, every_s=every_s)


def tiles(devices: tuple[DeviceSummary, ...]) -> Markup:
    """Returns a link to each device, in the look of its state."""
    return Markup("\n").join(
        _tile(device.name, device.up, device.problems[0] if device.problems else "", device.state) for device in devices
    )


@functools.lru_cache(_TILES_KEPT)
def _tile(name: str, up: bool, problem: str, state: str) -> Markup:
    look, symbol, text = ("tile", "■", state)
    if not up:
        look, symbol, text = ("tile warn", "▲", "offline")
    elif problem:
        look, symbol, text = ("tile bad", "✕", problem)
    said = f"{name}: {text}"
    return Markup('<a class="{}" href="/devices/{}" title="{}" aria-label="{}">{}</a>').format(
        look, quote(name, safe=""), said, said, symbol
    )


def when(at_ns: int | None) -> str | Markup:
    """Returns a time of the hub's time zone to the second; nothing for ``None`` and 0."""
    if not at_ns:
        return ""
    at = datetime.datetime.fromtimestamp(at_ns / 1e9).astimezone()
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(timespec="seconds"), f"{at:%Y-%m-%d %H:%M:%S}")


def age(at_ns: int | None) -> str:
    """Returns how long ago a time is, such as ``5 min``; nothing for ``None`` and 0."""
    if not at_ns:
        return ""
    return duration(max(0.0, time.time() - at_ns / 1e9))


def duration(seconds: float) -> str:
    """Returns a time span in its largest unit, such as ``5 min``."""
    for unit_s, name in _AGES:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{seconds:.0f} s"


def size(count: float | None) -> str:
    """Returns bytes with a decimal unit."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def percent(share: float | None, digits: int = 1) -> str:
    """Returns a share in percent; nothing for ``None``."""
    return "" if share is None else f"{100 * share:.{digits}f} %"
