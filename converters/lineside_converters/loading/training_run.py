"""Read a finished training run: its ``float.onnx`` and its facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from lineside_models.datasets.folds import divides, folds_of
from lineside_models.vision.model_facts import METADATA_KEY, ModelFacts
from lineside_runtime.backends.ort.backend import read_metadata
from lineside_runtime.bundle import Postprocess, Preprocess
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import InputNotFoundError, TrainingError

FACTS, GRAPH, WEIGHTS = "training.json", "float.onnx", "best.pt"


class TrainingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a run's ``training.json`` that is read here.

    Attributes:
        labels: Class names in the order of the model's outputs.
        preprocess: How an image became the model's input while it was trained.
        postprocess: How its outputs are read, with the fitted score calibration and thresholds.
    """

    labels: tuple[str, ...]
    preprocess: Preprocess
    postprocess: Postprocess


def read_training(run: Path) -> tuple[ModelFacts, dict[str, Any]]:
    """Reads the facts and the record of a training run.

    Args:
        run: The folder that `lineside train` wrote.

    Returns:
        The facts that a bundle needs, and the whole content of ``training.json``.

    Raises:
        InputNotFoundError: The run has not ended, or the folder is another.
        TrainingError: ``training.json`` is damaged.
    """
    path = run / FACTS
    if not path.is_file() or not (run / GRAPH).is_file():
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
    """Returns keyword arguments of the `Optimizer` for a finished run's ``float.onnx``.

    Classifiers of earlier releases say how they are used in their graph alone.

    Raises:
        InputNotFoundError: The run has not ended, or the folder is another.
        TrainingError: ``training.json`` is damaged.
    """
    path = run / FACTS
    if path.is_file() and (run / GRAPH).is_file():
        content = _decoded(path)
        if "preprocess" not in content and read_metadata(run / GRAPH, METADATA_KEY) is not None:
            return {"training": content}
    facts, training = read_training(run)
    return {
        "labels": facts.labels,
        "preprocess": facts.preprocess,
        "postprocess": facts.postprocess,
        "training": training,
    }


def run_of(model: Path) -> Path | None:
    """Returns the finished run that a folder is, or that a ``.pt`` stands in; ``None`` for anything else."""
    run = model if model.is_dir() else model.parent if model.name == WEIGHTS else None
    return run if run is not None and (run / FACTS).is_file() and (run / GRAPH).is_file() else None


def drawn_folds(model: Path, folders: Sequence[Path]) -> dict[Path, Path]:
    """Returns the tables of the folds that a run drew, by data folder: for those without folds of their own.

    Without them the model would be judged on images that it was trained on.

    Args:
        model: The run's folder or a file in it; anything else has no table.

    Raises:
        DatasetError: A table is damaged.
    """
    run = model if model.is_dir() else model.parent
    if not (run / FACTS).is_file():
        return {}
    tables = {folder: run / f"folds-{folder.resolve().name}.csv" for folder in folders if folder.is_dir()}
    return {
        folder: table
        for folder, table in tables.items()
        if table.is_file() and not folds_of(folder) and divides(table, folder)
    }
