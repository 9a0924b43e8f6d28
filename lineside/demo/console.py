"""The demo's output: progress on stderr, the outcome as a table on stdout."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from lineside.demo.report import DemoOutcome


class DemoConsole:
    """Prints numbered steps, and a bar while frames run."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._step = 0
        self._started = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Prints a step's title and then its duration."""
        self._step += 1
        self.console.print(f"[bold cyan]{self._step}[/] [bold]{title}[/]")
        began = time.monotonic()
        yield
        self.console.print(f"  [green]done[/] in {time.monotonic() - began:.1f} s")

    def report(self, text: str) -> None:
        """Prints a line that belongs to the running step."""
        self.console.print(f"  [dim]{time.monotonic() - self._started:6.1f} s[/]  {text}", soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[ProgressBar]:
        """Shows a progress bar of ``total`` steps."""
        columns = (TextColumn(f"  {title}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        if not self.console.is_terminal:
            yield ProgressBar(self, None, TaskID(0), title, total)
            return
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield ProgressBar(self, progress, progress.add_task(title, total=total), title, total)


class ProgressBar:
    """A progress bar; a line for each quarter where the output is not a terminal."""

    def __init__(self, console: DemoConsole, progress: Progress | None, task: TaskID, title: str, total: int) -> None:
        self._console = console
        self._progress = progress
        self._task = task
        self._title = title
        self._total = total
        self._printed_quarter = 0

    def at(self, done: int) -> None:
        """Moves the bar to ``done``."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done)
            return
        quarter = 4 * done // max(1, self._total)
        if quarter > self._printed_quarter:
            self._printed_quarter = quarter
            self._console.report(f"{self._title}: {done} of {self._total}")


def outcome_table(outcome: DemoOutcome) -> None:
    """Prints the outcome on stdout."""
    table = Table(title="lineside demo", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    good = outcome.lost == 0 and outcome.duplicates == 0
    table.add_row("frames", f"{outcome.frames} ({outcome.source})")
    table.add_row("inspected", str(outcome.inspected))
    table.add_row("lost, inspected twice", f"[{'green' if good else 'red'}]{outcome.lost}, {outcome.duplicates}[/]")
    table.add_row("results at the hub", str(outcome.synced))
    for name in outcome.activated:
        table.add_row("activated", f"{name}: judged {outcome.frames_by_bundle.get(name, 0)} frames")
    for refused in outcome.rolled_back:
        table.add_row("rolled back", f"{refused['bundle']}: {refused['reason']}")
    table.add_row("device", f"asked for {outcome.requested_device}, used {outcome.used_device}")
    table.add_row("float", _figures(outcome.float))
    table.add_row("INT8", _figures(outcome.int8))
    Console(highlight=False).print(table)


def _figures(figures: dict[str, Any]) -> str:
    parts = [f"{figures['latency_ms']:.2f} ms", f"{figures['size_bytes'] / 1e6:.2f} MB"]
    if "map50" in figures:
        parts.append(f"mAP@0.5 {figures['map50']:.3f}")
    return ", ".join(parts)
