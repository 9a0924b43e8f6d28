"""Comparison of training runs: differing settings, results and curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from lineside_converters.reports.templating import render
from lineside_converters.training.monitoring.curves import NUMBERS, CurveData, CurveLine, figures_of, mean_of, picture
from lineside_converters.training.settings import USED
from lineside_runtime.decoding import decode_json, decode_toml
from lineside_runtime.errors import InputNotFoundError, TrainingError
from lineside_runtime.files import write_atomic
from lineside_runtime.reports.svg import COLOURS

ENDED = "training.json"
"""File that a run writes last."""


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of one run.

    Attributes:
        name: Of its folder; where several are called alike, the path that was given.
        ended: Whether it ran to its end.
        architecture: Of the network; empty while the run hasn't ended.
        figure: What its evaluations measure.
        best: The best evaluation's figures by name; none before the first one.
        mean: The mean of those figures, by which it is the best; ``None`` before the first one.
        loss: Mean of the last epoch; ``None`` before the first one has ended.
        step: Reached so far.
        minutes: Of training, until the last evaluation.
        settings: Settings of the run, as in its ``config.toml``.
        curves: The numbers behind its curves.
    """

    name: str
    ended: bool
    architecture: str
    figure: str
    best: dict[str, float]
    best_step: int
    mean: float | None
    loss: float | None
    step: int
    steps: int
    minutes: float
    settings: dict[str, Any]
    curves: CurveData


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of several runs.

    Attributes:
        runs: In the order in which they were given.
        differing: The settings that are not the same in all of them, by name, a value a run.
        best: Name of the run with the highest mean figure among runs of one figure; empty where that can't be said.
    """

    runs: tuple[RunSummary, ...]
    differing: dict[str, tuple[Any, ...]]
    best: str


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Reads runs, also unfinished ones, and compares them.

    Args:
        folders: That `lineside train` wrote.

    Raises:
        InputNotFoundError: A folder holds no run that has got to the end of an epoch.
        TrainingError: A file of a run is damaged.
    """
    alike = len({folder.resolve().name for folder in folders}) < len(folders)
    runs = tuple(_read_run(folder, str(folder) if alike else folder.resolve().name) for folder in folders)
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: tuple(run.settings.get(name) for run in runs) for name in names}
    differing = {name: each for name, each in values.items() if any(value != each[0] for value in each)}
    judged = [run for run in runs if run.mean is not None]
    comparable = len(judged) == len(runs) and len({run.figure for run in runs}) == 1
    best = max(judged, key=lambda run: run.mean or 0.0).name if comparable else ""
    return Comparison(runs=runs, differing=differing, best=best)


def _read_run(folder: Path, name: str) -> RunSummary:
    if not (folder / NUMBERS).is_file():
        raise InputNotFoundError(
            f"{folder} holds no training run that could be compared",
            expected=f"{NUMBERS}, which `lineside train` writes at the end of each epoch",
            action="Give the folder of --out; runs of older releases have no such file.",
        )
    try:
        curves = decode_json((folder / NUMBERS).read_bytes(), type=CurveData)
        settings = decode_toml((folder / USED).read_bytes()) if (folder / USED).is_file() else {}
        ended = (folder / ENDED).is_file()
        facts: dict[str, Any] = decode_json((folder / ENDED).read_bytes(), type=dict[str, Any]) if ended else {}
    except msgspec.DecodeError as error:
        raise TrainingError(f"a file of the run {folder} is damaged", actual=error) from error
    best = max(curves.curve, key=mean_of, default=None)
    last = curves.losses[-1] if curves.losses else None
    return RunSummary(
        name=name,
        ended=ended,
        architecture=str(facts.get("architecture", "")),
        figure=curves.figure,
        best={} if best is None else figures_of(best),
        best_step=0 if best is None else int(best["step"]),
        mean=None if best is None else mean_of(best),
        loss=None if last is None else last["loss"],
        step=int(max((row["step"] for row in (*curves.curve, *curves.losses)), default=0)),
        steps=curves.steps,
        minutes=round(curves.curve[-1]["elapsed_s"] / 60, 2) if curves.curve else 0.0,
        settings=settings,
        curves=curves,
    )


def write_comparison(path: Path, found: Comparison) -> None:
    """Writes a page with the runs' curves over one another."""
    drawn = [
        (title, picture(lines, _steps(lines)))
        for title, lines in _lines(found.runs)
        if any(line.points for line in lines)
    ]
    page = render(
        "training_comparison.html.j2",
        title=f"{', '.join(run.name for run in found.runs)}: trainings compared",
        runs=found.runs,
        differing=found.differing,
        best=found.best,
        pictures=drawn,
        colours=COLOURS,
    )
    write_atomic(path, page.encode())


def _lines(runs: Sequence[RunSummary]) -> list[tuple[str, list[CurveLine]]]:
    figures = [CurveLine(run.name, tuple((row["step"], mean_of(row)) for row in run.curves.curve)) for run in runs]
    losses = [CurveLine(run.name, tuple((row["step"], row["loss"]) for row in run.curves.losses)) for run in runs]
    names = " or ".join(dict.fromkeys(run.figure for run in runs))
    return [(f"Mean {names} on the frames that were kept aside", figures), ("Loss, mean of each epoch", losses)]


def _steps(lines: Sequence[CurveLine]) -> int:
    return int(max(step for line in lines for step, _ in line.points))
