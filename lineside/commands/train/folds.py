"""``lineside train … --folds K``: cross-validation by part inside the train fold."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import cluster_tasks
from lineside_runtime.errors import InputError

if TYPE_CHECKING:
    from lineside_converters.training.cross_validation import CrossValidation, FoldRun
    from lineside_converters.training.settings import TrainingSettings

_OTHER = ("then", "architectures", "min_workers", "gpus", "storage", "balance_workers")


def add_folds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="cross-validation in place of a model: train K times inside the train fold, each time judged on the parts "
        "of one of K folds, with one thread each; with --workers as Ray tasks, so many at once",
    )


def check_folds(options: argparse.Namespace) -> None:
    """Refuses options of a training that a cross-validation doesn't have.

    Raises:
        InputError: There is one.
    """
    for name in _OTHER if options.folds is not None else ():
        if getattr(options, name, None):
            raise InputError(f"--{name.replace('_', '-')} with --folds", expected="one of the two")


def validate_by_folds(kind: str, settings: TrainingSettings, options: argparse.Namespace) -> int:
    """Trains and judges a model for each fold, and prints the figures."""
    with needs("train"):
        from lineside_converters.training.cross_validation import cross_validate

    def show_fold(run: FoldRun, done: int) -> None:
        inform(f"fold {run.fold + 1} judged, {done} of {options.folds}: {run.mean:.3f}")

    with cluster_tasks(options) as tasks:
        result = cross_validate(kind, settings, options.folds, tasks=tasks, on_fold=show_fold)
    if options.json:
        print_json(result)
    else:
        _print(result)
        show(f"wrote {settings.out}: cross_validation.json, config.toml")
    return 0


def _print(result: CrossValidation) -> None:
    show(f"{result.figure} of {len(result.folds)} folds: mean {result.mean:.3f}, deviation {result.deviation:.3f}")
    for run in result.folds:
        figures = ", ".join(f"{name} {value:.3f}" for name, value in run.figures.items())
        show(f"fold {run.fold + 1}: {figures}")
