"""Shared by the commands that train: settings from file and options, and progress."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from lineside.console import inform
from lineside.options import add_json
from lineside_runtime.errors import DiskFullError

if TYPE_CHECKING:
    from lineside_converters.training.progress import OnProgress, TrainingProgress
    from lineside_converters.training.settings import TrainingSettings

    S = TypeVar("S", bound=TrainingSettings)

SAY_EVERY_S = 10.0
INTERRUPTED = 130
REDRAW_S = 1.0
BARS = "▁▂▃▄▅▆▇█"
BARS_MAX = 48


class Options:
    """Adds options for fields of the settings; an option that is not given leaves the file's value or the default."""

    def __init__(self, parser: argparse.ArgumentParser, kind: type[TrainingSettings]) -> None:
        self._parser, self._kind = parser, kind
        self._defaults = {field.name: field.default for field in msgspec.structs.fields(kind)}

    def add(self, flag: str, text: str, *, field: str = "", **more: Any) -> None:
        """Adds one.

        Args:
            flag: Such as ``--batch``.
            text: Its help; the default is added.
            field: Of the settings, where it isn't called like the flag.
        """
        name = field or flag.removeprefix("--").replace("-", "_")
        default = self._defaults[name]
        if default not in (msgspec.NODEFAULT, None, False, "", ()):
            shown = f"{default:.3g}" if isinstance(default, float) else default
            text = f"{text} (default: {shown})"
        self._parser.add_argument(flag, dest=name, default=argparse.SUPPRESS, help=text, **more)

    def add_common(self, *, documents: bool = False) -> None:
        """Adds what all trainings have.

        Args:
            documents: Whether they are of documents, whose folds and groups stand in the data set itself.
        """
        self._parser.add_argument(
            "--config", type=Path, metavar="FILE", help="a TOML file of settings; options override it"
        )
        self.add("--data", "an annotated data set; repeatable", type=Path, action="append", metavar="DIR")
        self.add("--out", "checkpoints, weights, curves and the settings used", type=Path, metavar="DIR")
        self.add("--epochs", "passes over the data", type=int)
        self.add("--minutes", "end the schedule after so many minutes", type=float, metavar="M")
        self.add("--batch", "windows a step" if documents else "pictures a step", type=int)
        self.add("--learning-rate", "peak learning rate", type=float, metavar="R")
        self.add("--held-share", "of the train fold, held out to choose the best weights", type=float, metavar="S")
        if not documents:
            self.add("--val-share", "held out as val fold if there are no folds", type=float, metavar="S")
            self.add(
                "--parts",
                "regular expression on a file's path: what it matches names the part",
                field="group",
                metavar="REGEX",
            )
        self.add("--evaluate-every", "epochs between evaluations", type=int, metavar="N")
        self.add("--seed", "of everything random", type=int)
        self.add("--threads", "of torch", type=int)
        self._parser.add_argument(
            "--tensorboard", action="store_true", help="write TensorBoard's event files into OUT/tensorboard as well"
        )
        self.add("--resume", "go on from the last checkpoint in --out", action="store_true")
        self.add("--overwrite", "begin again where a run stands in --out", action="store_true")
        add_json(self._parser)


def settings_of(options: argparse.Namespace, kind: type[S]) -> S:
    """Returns the settings: those of the file, overridden by options.

    Raises:
        ConfigError: The file or an option is not usable.
        InputError: The folder holds a run, and neither ``--resume`` nor ``--overwrite`` is given.
        TrainingError: The run that is resumed has other data or another network.
    """
    from lineside_converters.training.run_folder import check_run_folder
    from lineside_converters.training.settings import read_settings

    given = {name: value for name, value in vars(options).items() if name in kind.__struct_fields__}
    settings = read_settings(kind, options.config, given)
    check_run_folder(settings)
    return settings


def resumable(kind: str, run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Returns a training command that prints after Ctrl-C, or on a full disk, how to resume it."""

    def interruptible(options: argparse.Namespace) -> int:
        try:
            return run(options)
        except (KeyboardInterrupt, DiskFullError) as error:
            from lineside_converters.training.run_folder import how_to_resume

            inform(how_to_resume(kind, vars(options)))
            if isinstance(error, DiskFullError):
                raise
            return INTERRUPTED

    return interruptible


@contextlib.contextmanager
def progress_of(options: argparse.Namespace, out: Path) -> Iterator[OnProgress]:
    """Yields a listener of a training: curves on a terminal, else lines; with ``--tensorboard`` event files too.

    Raises:
        MissingExtraError: ``--tensorboard`` without the extra.
    """
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(live_curves()) if sys.stderr.isatty() else reporter()]
        if options.tensorboard:
            from lineside_converters.training.monitoring.tensorboard import FOLDER, TensorboardWriter

            writer = TensorboardWriter(out / FOLDER)
            stack.callback(writer.close)
            listeners.append(writer)

        def report(progress: TrainingProgress) -> None:
            for listener in listeners:
                listener(progress)

        yield report


@contextlib.contextmanager
def live_curves() -> Iterator[OnProgress]:
    """Yields a listener that draws loss and figures on the terminal of stderr."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    _show_starts()
    curves = Curves()
    with contextlib.ExitStack() as stack:
        views: list[Live] = []

        def report(progress: TrainingProgress) -> None:
            curves.add(progress)
            if not views:  # after what is said before the first step
                views.append(stack.enter_context(Live(console=Console(stderr=True), auto_refresh=False)))
            now_s = time.monotonic()
            if progress.held or now_s - curves.drawn_at_s >= REDRAW_S:
                curves.drawn_at_s = now_s
                views[0].update(Text(curves.text()), refresh=True)

        yield report


class Curves:
    """Loss and figures of a run as lines of text."""

    def __init__(self) -> None:
        self.drawn_at_s = -REDRAW_S
        self._losses: list[float] = []
        self._figures: dict[str, list[float]] = {}
        self._last = ""

    def add(self, progress: TrainingProgress) -> None:
        """Takes one step."""
        self._losses.append(progress.loss)
        for name, value in progress.held.items():
            self._figures.setdefault(name, []).append(value)
        self._last = line_of(progress)

    def text(self) -> str:
        """Returns the step's line, and a curve for the loss and each figure with its last and its best value."""
        lines = [self._last, f"loss    {sparkline(self._losses)} {self._losses[-1]:.3f}"]
        lines += [
            f"{name:<7} {sparkline(values)} {values[-1]:.3f}, best {max(values):.3f}"
            for name, values in self._figures.items()
        ]
        return "\n".join(lines)


def sparkline(values: Sequence[float]) -> str:
    """Returns values as a row of bars of eight heights, the mean of several where there are more than `BARS_MAX`."""
    count = min(BARS_MAX, len(values))
    means = [
        sum(part) / len(part)
        for n in range(count)
        if (part := values[n * len(values) // count : (n + 1) * len(values) // count])
    ]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in means)


def _show_starts() -> None:
    """Sets the log level so that initial weights are logged, unless the user chose another level."""
    log = logging.getLogger("lineside.training")
    if not log.isEnabledFor(logging.INFO):
        log.setLevel(logging.INFO)


def line_of(progress: TrainingProgress) -> str:
    """Returns the progress as a line."""
    held = "".join(f"  {name} {value:.3f}" for name, value in progress.held.items())
    return (
        f"epoch {progress.epoch + 1}  step {progress.step + 1} of {progress.steps}  loss {progress.loss:.3f}  "
        f"rate {progress.learning_rate:.1e}  {progress.elapsed_s:.0f} s, {progress.remaining_s:.0f} s to go{held}"
    )


def reporter() -> OnProgress:
    """Returns a listener that prints a line every ten seconds and at every evaluation."""
    printed_s = -SAY_EVERY_S
    _show_starts()

    def report(progress: TrainingProgress) -> None:
        nonlocal printed_s
        now_s = time.monotonic()
        if now_s - printed_s < SAY_EVERY_S and not progress.held:
            return
        printed_s = now_s
        inform(line_of(progress))

    return report
