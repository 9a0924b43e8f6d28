"""From a training run to the bundles that are shipped: the float one, and the INT8 one made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lineside_converters.optimizer import Optimizer, OptimizeResult
from lineside_models.vision.facts import METADATA_KEY, ModelFacts
from lineside_runtime.backends.ort import read_metadata
from lineside_runtime.bundle import Postprocess, Preprocess
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import InputNotFoundError, TrainingError


class TrainingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a run's ``training.json``; it says more.

    Attributes:
        labels: Class names in the order of the model's outputs.
        preprocess: How an image became the model's input while it was trained.
        postprocess: How its outputs are read, with the fitted score calibration and thresholds.
    """

    labels: tuple[str, ...]
    preprocess: Preprocess
    postprocess: Postprocess


def read_training(run: Path) -> tuple[ModelFacts, dict[str, Any]]:
    """Reads what a training run says of its model.

    Args:
        run: The folder that `lineside train` wrote.

    Returns:
        The facts that a bundle needs, and the whole content of ``training.json``.

    Raises:
        InputNotFoundError: The run has not ended, or the folder is another.
        TrainingError: ``training.json`` is damaged.
    """
    path = run / "training.json"
    if not path.is_file() or not (run / "float.onnx").is_file():
        raise InputNotFoundError(
            f"{run} holds no finished training run",
            expected="training.json and float.onnx",
            action="Let `lineside train` end; --resume goes on with a run that was cut off.",
        )
    try:
        content = _decoded(path)
        read = msgspec.convert(content, TrainingFacts)
    except msgspec.DecodeError as error:
        raise TrainingError(f"{path}: {error}") from error
    return ModelFacts(labels=read.labels, preprocess=read.preprocess, postprocess=read.postprocess), content


def _decoded(path: Path) -> dict[str, Any]:
    try:
        return decode_json(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise TrainingError(f"{path}: {error}") from error


def facts_of_run(run: Path) -> dict[str, Any]:
    """Returns what the `Optimizer` must be told of a finished run besides its ``float.onnx``, as keyword arguments.

    Classifiers of earlier releases say how they are used in their graph alone.

    Raises:
        InputNotFoundError: The run has not ended, or the folder is another.
        TrainingError: ``training.json`` is damaged.
    """
    path = run / "training.json"
    if path.is_file() and (run / "float.onnx").is_file():
        content = _decoded(path)
        if "preprocess" not in content and read_metadata(run / "float.onnx", METADATA_KEY) is not None:
            return {"training": content}
    facts, training = read_training(run)
    return {
        "labels": facts.labels,
        "preprocess": facts.preprocess,
        "postprocess": facts.postprocess,
        "training": training,
    }


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
        out: Folder of the new bundle.
        name: Of the bundle.
        version: Of the bundle.
        level: 0 for the float bundle, 1 for INT8.
        card: Text of the model card; figures of the build are added.
        data: Folders with annotated images for calibration and accuracy; else the line simulator's frames.
        fold: Of ``data``.
        good_classes: As for the `Optimizer`.
        min_metric: As for the `Optimizer`.
        overwrite: Whether a bundle that stands at ``out`` is replaced.
        on_progress: Told in words what is going on.

    Raises:
        InputNotFoundError: The run has not ended.
        LinesideError: As for `Optimizer.run`.
    """
    return Optimizer(
        run / "float.onnx",
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
