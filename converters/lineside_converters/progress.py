"""Progress of conversions: a line for each step, a count for long ones."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from lineside_runtime.progress import TextListener

log = logging.getLogger("lineside.convert")

StepListener = Callable[[str, int, int], None]
"""Told how much of what is done: a name, how many, of how many."""

_Item = TypeVar("_Item")


def _nothing(what: str, done: int, total: int) -> None:
    pass


@dataclasses.dataclass(frozen=True, slots=True)
class ProgressReporter:
    """Where the progress of a run is reported.

    Attributes:
        report: Told in words what was done.
        count: Told how much of each step is done.
    """

    report: TextListener
    count: StepListener = _nothing

    def through(self, items: Sequence[_Item], what: str) -> Iterator[_Item]:
        """Yields the items and counts them."""
        yield from self.counted(items, len(items), what)

    def counted(self, items: Iterable[_Item], total: int, what: str) -> Iterator[_Item]:
        """Yields so many items and counts them."""
        for number, item in enumerate(items):
            self.count(what, number, total)
            yield item
        self.count(what, total, total)


def _print_line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def reporter_for(report: TextListener | None, count: StepListener | None) -> Iterator[ProgressReporter]:
    """Yields the reporter of a run: the caller's listeners, and without any, the terminal.

    Without listeners and without a terminal, lines go to the log ``lineside.convert`` and counts to nobody.
    """
    if report is not None or count is not None or not sys.stderr.isatty():
        yield ProgressReporter(report or log.info, count or _nothing)
        return
    with progress_bars() as shown:
        yield ProgressReporter(_print_line, shown)


@contextlib.contextmanager
def progress_bars() -> Iterator[StepListener]:
    """Shows a bar on stderr for each step that counts, until its end."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    tasks: dict[str, TaskID] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:

        def count(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total, visible=done < total)

        yield count
