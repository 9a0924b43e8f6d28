"""A training run's folder and its facts: score calibration and thresholds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside_converters.loading.training_run import facts_of_run, read_training
from lineside_models.labels import LABELS
from lineside_models.postprocess import read_params
from lineside_runtime.errors import InputNotFoundError, TrainingError
from tests.converters import nets


def run_folder(folder: Path, **changes: object) -> Path:
    facts = {
        "architecture": "surface_detector_lite0",
        "labels": list(LABELS),
        "preprocess": {"input": "image", "colour": "grey", "mean": [127.0], "std": [128.0]},
        "postprocess": {
            "name": "dfl_anchor_free",
            "params": {"calibration": [[1.2, 0.1]] * len(LABELS), "thresholds": [0.4] * len(LABELS)},
        },
        "steps": 7,
        **changes,
    }
    folder.mkdir()
    (folder / "float.onnx").write_bytes(nets.convnet(facts=None))
    (folder / "training.json").write_text(json.dumps(facts))
    return folder


def test_facts_of_the_training_travel_with_the_bundle(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    facts, _ = read_training(run)
    assert facts.preprocess is not None
    assert facts.preprocess.mean == (127.0,)
    assert facts.postprocess is not None
    assert read_params(facts.postprocess.params).calibration[0] == (1.2, 0.1)
    assert read_params(facts.postprocess.params).thresholds == (0.4,) * len(LABELS)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda run: (run / "training.json").unlink(), InputNotFoundError),
        (lambda run: (run / "float.onnx").unlink(), InputNotFoundError),
        (lambda run: (run / "training.json").write_text("{"), TrainingError),
        (lambda run: (run / "training.json").write_text('{"labels": "crazing"}'), TrainingError),
    ],
)
def test_an_unfinished_or_damaged_run_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception]
) -> None:
    run = run_folder(tmp_path / "run")
    spoil(run)
    with pytest.raises(error):
        facts_of_run(run)


def test_a_run_whose_graph_alone_says_how_it_is_used_is_read_too(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    (run / "float.onnx").write_bytes(nets.convnet())
    (run / "training.json").write_text('{"labels": ["crazing"], "held_top1": 0.9}')
    assert facts_of_run(run) == {"training": {"labels": ["crazing"], "held_top1": 0.9}}
