"""Limit repeated log records and escape control characters in them.

A device can send thousands of malformed messages a second to the hub, whose log quotes its texts; on the device each
part is a fault while its engine or camera fails.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time

WINDOW_S = 60.0
"""Repeats are counted within this time."""

SHOWN = 5
"""Records of one kind that are written within a window."""

KINDS_MAX = 1000
"""Kinds of records that are counted; all others are one kind."""

FORGOTTEN_AFTER_S = 3600.0
"""Age from which on a window gives room to another kind, so that new kinds are shown again after a flood."""

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}

RecordKind = tuple[str, str, str]
"""Logger, text without its values, and the first value: often the device or topic."""

_DECIDED = "lineside_passes"
"""Attribute of a record that a filter has seen, so that all handlers write the same records."""


@dataclasses.dataclass(slots=True)
class _Window:
    began_s: float
    left_out: int
    seen: int = 0


class LogFilter(logging.Filter):
    """Passes the first `SHOWN` records of a kind in a window; the next one after it says how many were left out.

    Control characters are escaped, so that no text starts a new line or controls a terminal.
    """

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[RecordKind, _Window] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether the record is written; changes its text."""
        passes = getattr(record, _DECIDED, None)
        if passes is None:
            passes = self._decide(record)
            setattr(record, _DECIDED, passes)
        return bool(passes)

    def _decide(self, record: logging.LogRecord) -> bool:
        first = str(record.args[0])[:80] if isinstance(record.args, tuple) and record.args else ""
        with self._lock:
            window = self._window((record.name, str(record.msg), first), time.monotonic())
            window.seen += 1
            if window.seen > SHOWN:
                window.left_out += 1
                return False
            left_out, window.left_out = window.left_out, 0
        text = record.getMessage().translate(_CONTROL)
        record.msg = f"{text} ({left_out} more like this were left out)" if left_out else text
        record.args = ()
        return True

    def _window(self, kind: RecordKind, now_s: float) -> _Window:
        if kind not in self._windows and len(self._windows) >= KINDS_MAX:
            self._windows = {
                name: one for name, one in self._windows.items() if now_s - one.began_s < FORGOTTEN_AFTER_S
            }
            if len(self._windows) >= KINDS_MAX:
                kind = (kind[0], "", "")
        known = self._windows.get(kind)
        if known is None or now_s - known.began_s >= WINDOW_S:
            known = self._windows[kind] = _Window(now_s, known.left_out if known is not None else 0)
        return known
