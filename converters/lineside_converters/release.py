"""Make the shipped bundles from a training run: the float one and the INT8 one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lineside_converters.loading.training_run import GRAPH, facts_of_run
from lineside_converters.optimizer import Optimizer, OptimizeResult


def build_from_training(
    run: Path,
    out: Path,
    *,
    name: str,
    version: str,
    level: int,
    card: str = "",
    data: Sequence[Path] = (),
    fold: str = "train",
    good_classes: Sequence[str] | None = None,
    min_metric: float | None = None,
    overwrite: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> OptimizeResult:
    """Makes a bundle of a finished training run, with its score calibration and thresholds.

    Args:
        run: The folder that `lineside train` wrote: ``float.onnx`` and ``training.json``.
        level: 0 for the float bundle, 1 for INT8.
        data: Folders with annotated images for calibration and accuracy; else the line simulator's frames.
        fold: Fold of ``data``.
        good_classes: As for the `Optimizer`.
        min_metric: As for the `Optimizer`.

    Raises:
        InputNotFoundError: The run has not ended.
        LinesideError: As for `Optimizer.run`.
    """
    return Optimizer(
        run / GRAPH,
        optimization_level=level,
        out=out,
        data=data,
        fold=fold,
        name=name,
        version=version,
        good_classes=good_classes,
        min_metric=min_metric,
        card=card,
        overwrite=overwrite,
        on_progress=on_progress,
        **facts_of_run(run),
    ).run()
