"""What the demo tells the person who watches, on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class DemoConsole:
    """Numbered steps with what came of each, and a bar while frames run."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._step = 0
        self._started = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announces a step and says how long it took."""
        self._step += 1
        self.console.print(f"[bold cyan]{self._step}[/] [bold]{title}[/]")
        began = time.monotonic()
        yield
        self.console.print(f"  [green]done[/] in {time.monotonic() - began:.1f} s")

    def tell(self, text: str) -> None:
        """Says one thing of the running step."""
        self.console.print(f"  [dim]{time.monotonic() - self._started:6.1f} s[/]  {text}", soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[ProgressBar]:
        """Shows a bar of ``total`` steps; on a pipe a line now and then instead."""
        columns = (TextColumn(f"  {title}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        if not self.console.is_terminal:
            yield ProgressBar(self, None, TaskID(0), title, total)
            return
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield ProgressBar(self, progress, progress.add_task(title, total=total), title, total)


class ProgressBar:
    """A bar that is told where it stands."""

    def __init__(self, voice: DemoConsole, progress: Progress | None, task: TaskID, title: str, total: int) -> None:
        self._voice = voice
        self._progress = progress
        self._task = task
        self._title = title
        self._total = total
        self._said_quarter = 0

    def at(self, done: int) -> None:
        """Moves the bar to ``done``."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done)
            return
        quarter = 4 * done // max(1, self._total)
        if quarter > self._said_quarter:
            self._said_quarter = quarter
            self._voice.tell(f"{self._title}: {done} of {self._total}")
