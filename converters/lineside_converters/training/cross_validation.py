"""Cross-validation of a training: one model for each fold of the parts, which is judged on that fold.

Folds are drawn inside the train fold, by part. Nothing is chosen on the fold that a model is judged on: its figure is
that of the last weights, and not of the best evaluation. The models are not kept.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from lineside_converters.cluster.tasks import ALONE, TaskRunner
from lineside_converters.training.distributed.job import TRAINERS, plain_settings, read_plain
from lineside_converters.training.settings import TrainingSettings, write_settings
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import InputError, TrainingError
from lineside_runtime.files import write_atomic

RESULT = "cross_validation.json"
FOLDS_MAX = 20


class FoldRun(msgspec.Struct, frozen=True, kw_only=True):
    """Training that held one fold out.

    Attributes:
        fold: Number, from 0.
        settings: Of the training, which a resumed cross-validation must share.
        figures: Of the last weights on the fold, by name.
        curve: All evaluations, with their steps.
    """

    fold: int
    settings: dict[str, Any]
    figures: dict[str, float]
    mean: float
    curve: list[dict[str, Any]]


class CrossValidation(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of all folds.

    Attributes:
        figure: What the evaluation measures.
        deviation: Standard deviation over the folds. They share training data, so that the mean's own error is larger
            than this divided by the root of their number.
    """

    kind: str
    figure: str
    mean: float
    deviation: float
    folds: tuple[FoldRun, ...]


def cross_validate(
    kind: str,
    settings: TrainingSettings,
    folds: int,
    *,
    tasks: TaskRunner = ALONE,
    on_fold: Callable[[FoldRun, int], None] = lambda *_: None,
) -> CrossValidation:
    """Trains and judges one model for each fold, and writes ``cross_validation.json`` into the settings' folder.

    Each training uses one thread, so that it gives the same figures in this process and as a task.

    Args:
        kind: ``detector``, ``classifier`` or ``segmenter``.
        settings: Of each training; with ``resume`` the folds that are finished in its folder are kept, with
            ``overwrite`` an earlier result is replaced.
        folds: Number of folds, which replaces ``held_share``.
        on_fold: Told each fold that is finished, and how many are.

    Raises:
        TrainingError: The number of folds is out of range, a time is given in place of epochs, or as for training.
        InputError: The folder holds a result, and neither ``resume`` nor ``overwrite`` is given.
        DatasetError: As for training.
        ClusterError: As for `TaskRunner.map`.
    """
    out = settings.out
    _check(settings, folds, may_exist=settings.resume or settings.overwrite)
    out.mkdir(parents=True, exist_ok=True)
    settings = msgspec.structs.replace(settings, held_share=1 / folds, threads=1)
    write_settings(settings)
    jobs = [(kind, plain_settings(msgspec.structs.replace(settings, held_number=fold))) for fold in range(folds)]
    kept = {fold: found for fold, job in enumerate(jobs) if settings.resume and (found := _read(out, fold, job[1]))}
    done = len(kept)

    def keep(_: int, found: FoldRun) -> None:
        nonlocal done
        done += 1
        write_atomic(_file(out, found.fold), msgspec.json.encode(found))
        on_fold(found, done)

    for found in tasks.map(train_fold, [job for fold, job in enumerate(jobs) if fold not in kept], on_done=keep):
        kept[found.fold] = found
    means = [kept[fold].mean for fold in range(folds)]
    result = CrossValidation(
        kind=kind,
        figure=TRAINERS[kind][1].figure,
        mean=statistics.fmean(means),
        deviation=statistics.stdev(means),
        folds=tuple(kept[fold] for fold in range(folds)),
    )
    write_atomic(out / RESULT, msgspec.json.format(msgspec.json.encode(result), indent=1))
    return result


def _check(settings: TrainingSettings, folds: int, *, may_exist: bool) -> None:
    if not 2 <= folds <= FOLDS_MAX:
        raise TrainingError("folds is not usable", expected=f"2 to {FOLDS_MAX}", actual=folds, action="Give another.")
    if settings.minutes is not None:
        raise TrainingError(
            "minutes with folds",
            expected="epochs, so that every fold is trained as long",
            actual=settings.minutes,
            action="Leave minutes out, and give epochs.",
        )
    if (settings.out / RESULT).exists() and not may_exist:
        raise InputError(
            f"{settings.out} holds a cross-validation",
            expected="a folder without one",
            actual=RESULT,
            action="Go on with it by --resume, begin again in its place by --overwrite, or give another --out.",
        )


def train_fold(job: tuple[str, dict[str, Any]]) -> FoldRun:
    """Trains one model in a folder of its own, and returns its figures.

    Args:
        job: Kind of model, and settings as `plain_settings` gives them, with ``held_number``.
    """
    kind, values = job
    with tempfile.TemporaryDirectory(prefix="lineside-fold-") as folder:
        settings = read_plain(kind, values, Path(folder))
        trainer = TRAINERS[kind][1](settings, lambda _: None)
        trainer.train()
        curve = trainer.run.curve
    figures = {name: float(value) for name, value in curve[-1].items() if name not in ("step", "elapsed_s")}
    return FoldRun(
        fold=settings.held_number,
        settings=_compared(values),
        figures=figures,
        mean=statistics.fmean(figures.values()),
        curve=[{name: value for name, value in row.items() if name != "elapsed_s"} for row in curve],
    )


def _compared(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("out", "resume", "overwrite")}


def _file(out: Path, fold: int) -> Path:
    return out / f"fold-{fold}.json"


def _read(out: Path, fold: int, values: dict[str, Any]) -> FoldRun | None:
    """Returns a fold that an earlier call has finished with the same settings; ``None`` without one."""
    try:
        found = decode_json(_file(out, fold).read_bytes(), type=FoldRun)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    if found.settings != _compared(values):
        raise TrainingError(
            f"the cross-validation in {out} can't go on with other settings",
            expected=found.settings,
            actual=_compared(values),
            action="Give the settings that it was begun with, or --overwrite.",
        )
    return found
