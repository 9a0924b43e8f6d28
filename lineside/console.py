"""Output of the commands: results on stdout, everything else on stderr, progress only on a terminal."""

from __future__ import annotations

import json
import os
import pwd
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from lineside.extras import needs

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_REDRAW_S = 1.0
_PROGRESS_EVERY_S = 0.2
_WIDTH_OF_A_FILE = 240


def print_json(value: Any) -> None:
    """Prints structs, dataclasses and plain values as one line of JSON."""
    try:
        text = msgspec.json.encode(value, enc_hook=_as_text).decode()
    except UnicodeEncodeError:  # a file name that is no UTF-8
        text = json.dumps(msgspec.to_builtins(value, enc_hook=_as_text))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _as_text(value: Any) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def inform(text: str = "") -> None:
    """Prints lines for a person on stderr; control characters are escaped as by `show`."""
    print(printable(text), file=sys.stderr, flush=True)


def show(text: object = "", *, flush: bool = False) -> None:
    """Prints lines for a person on stdout; control characters in names from devices and files are escaped."""
    print(printable(str(text)), flush=flush)


def show_link(link: Mapping[str, object], *, root: object) -> None:
    """Prints the lines of ``agent.toml`` that connect a device.

    Args:
        link: Keys and values of its ``[link]`` table.
        root: Path of the TUF root.
    """
    show(f'root = "{root}"\n\n[link]')
    for name, value in link.items():
        show(f'{name} = "{value}"')


def show_findings(findings: Iterable[Any]) -> None:
    """Prints the findings of a doctor, each with what to do about it."""
    lines = [f"{each.level:>7}  {each.what}\n{'':>7}  -> {each.action}" for each in findings]
    show("\n".join(lines) or "no problem found")


def printable(text: str) -> str:
    """Returns a text in which control characters except newline and tab are escaped."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t\xa0" else char.encode("unicode_escape").decode() for char in text
    )


def one_line(text: str) -> str:
    """Returns a text without line breaks: a name or an error of a file, device or engine cannot begin a line."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def draw(look: Callable[[], tuple[RenderableType, bool]], *, watch: bool) -> None:
    """Draws a table once, or every second until nothing more will change or Ctrl-C.

    Args:
        look: Returns what to draw, and whether nothing more will change.
    """
    with needs("convert"):
        from rich.console import Console
        from rich.live import Live
    # Lines for a file or a pipe are not folded.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)
    picture, done = look()
    if not watch or done:
        console.print(picture)
        return
    with Live(picture, console=console, auto_refresh=False) as live:
        while not done:
            time.sleep(_REDRAW_S)
            picture, done = look()
            live.update(picture, refresh=True)


def add_row(table: Table, *cells: str) -> None:
    """Adds a row of plain text without markup and escape sequences, because devices send the cells."""
    from rich.text import Text

    table.add_row(*(Text(printable(cell)) for cell in cells))


def note(subject: str, text: str) -> Text:
    """Returns a line that stands below a table, whose columns it must not widen; plain text, as in `add_row`."""
    from rich.text import Text

    return Text(one_line(f" {subject}: {text}"))


def show_frames(done: int, total: int | None = None) -> None:
    """Shows the number of frames done on a terminal, every ten frames and at the end."""
    if sys.stderr.isatty() and (done % 10 == 0 or done == total):
        of = "" if total is None else f" of {total}"
        print(f"\r{done}{of} frames", end="\n" if done == total else "", file=sys.stderr, flush=True)


class ProgressMeter:
    """Progress of a long transfer in bytes; prints on a terminal only.

    Args:
        what: Name of the work.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._total = 0
        self._shown_at = 0.0
        self._begun = time.monotonic()
        self._live = sys.stderr.isatty()

    def __enter__(self) -> ProgressMeter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._shown_at:
            sys.stderr.write("\n")

    def of_total(self, done: int, total: int) -> None:
        """Shows progress as a share of a total that was not known before."""
        self._total = total
        self.progress(done)

    def progress(self, done: int, what: str = "") -> None:
        """Shows the bytes done, at most five times a second; ``what`` replaces the name of the work."""
        now = time.monotonic()
        if not self._live or now - self._shown_at < _PROGRESS_EVERY_S:
            return
        self._shown_at = now
        speed = done / 1e6 / max(now - self._begun, 1e-3)
        share = f"{100 * done / self._total:3.0f} %, " if self._total else ""
        sys.stderr.write(f"\r{what or self._what}: {share}{done / 1e6:.0f} MB, {speed:.0f} MB/s   ")
        sys.stderr.flush()


def system_user() -> str:
    """Returns who runs a command, as logs and timelines name a person at the hub's machine."""
    try:
        return f"system user {pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"system user {os.getuid()}"
