"""A training never writes over what another one left in its folder unless it is told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.classification.trainer import train_classifier
from lineside_converters.training.detection import architecture_selection
from lineside_converters.training.detection.architecture_selection import train_best
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.distributed.config import ClusterConfig
from lineside_converters.training.distributed.driver import train_on_ray
from lineside_converters.training.documents.config import DocumentConfig
from lineside_converters.training.documents.trainer import train_document
from lineside_converters.training.recommendation.config import RecommenderConfig
from lineside_converters.training.recommendation.model import DATA, DINModel
from lineside_converters.training.recommendation.trainer import train_recommender
from lineside_converters.training.run_folder import how_to_resume, resumed_or_begun
from lineside_converters.training.segmentation.config import SegmenterConfig
from lineside_converters.training.segmentation.trainer import train_segmenter
from lineside_converters.training.settings import TrainingSettings, read_settings
from lineside_runtime.errors import ConfigError, InputError, LinesideError

FILES = ("checkpoint.pt", "best.pt", "float.onnx", "tables.npz", "training.json", DATA)

Training = tuple[type[TrainingSettings], Callable[[Any], object], dict[str, Any]]


def _select(config: DetectorConfig) -> object:
    return train_best(config, lambda _: None, lambda _: None)


def _together(config: ClassifierConfig) -> object:
    return train_on_ray("classifier", config, ClusterConfig(workers=2), lambda _: None)


def _alone(train: Callable[[Any, Callable[[object], None]], object]) -> Callable[[Any], object]:
    return lambda config: train(config, lambda _: None)


TRAININGS: dict[str, Training] = {
    "detector": (DetectorConfig, _select, {}),
    "detector of several architectures": (DetectorConfig, _select, {"architectures": ("lite0@64", "lite0@96")}),
    "classifier": (ClassifierConfig, _alone(train_classifier), {}),
    "classifier of several workers": (ClassifierConfig, _together, {}),
    "segmenter": (SegmenterConfig, _alone(train_segmenter), {}),
    "document": (DocumentConfig, _alone(train_document), {}),
    "document of a few": (DocumentConfig, _alone(train_document), {"cross_fit": 2}),
    "recommender": (RecommenderConfig, _alone(train_recommender), {}),
}


def finished(folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(f"{name} of an earlier run")
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_finished_training_outlives_a_call_that_does_not_replace_it(name: str, tmp_path: Path) -> None:
    settings, train, more = TRAININGS[name]
    run = tmp_path / "run"
    before = finished(run)

    def config(*, resume: bool = False, overwrite: bool = False) -> TrainingSettings:
        return settings(data=(tmp_path / "nowhere",), out=run, resume=resume, overwrite=overwrite, **more)

    with pytest.raises(InputError, match="holds a training run"):
        train(config())
    with pytest.raises(ConfigError, match="resume and overwrite"):
        train(config(resume=True, overwrite=True))
    assert contents(run) == before
    if train is not _together:  # whose workers read the data
        with pytest.raises(LinesideError):  # told to replace it, but not able to begin
            train(config(overwrite=True))
        assert contents(run) == before
    (run / "checkpoint.pt").unlink()
    with pytest.raises(InputError, match="a finished training run that can't go on"):
        train(config(resume=True))
    assert contents(run) == {each: before[each] for each in before if each != "checkpoint.pt"}


def test_a_detector_that_is_stopped_while_architectures_are_tried_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(config: DetectorConfig, _: object) -> None:
        config.out.mkdir(parents=True)
        (config.out / "checkpoint.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(architecture_selection, "load_detection_data", lambda _: None)
    monkeypatch.setattr(architecture_selection, "train_detector", stop)
    out = tmp_path / "run"
    config = DetectorConfig(data=(tmp_path,), out=out, architectures=("lite0@64", "lite0@96"), trial_epochs=3)
    assert "nothing to resume" in how_to_resume("detector", {"out": out})
    with pytest.raises(KeyboardInterrupt):
        _select(config)
    assert how_to_resume("detector", {"out": out}).endswith(f"lineside train detector --out {out} --resume")
    again = read_settings(DetectorConfig, None, {"out": out, "resume": True})
    assert again == msgspec.structs.replace(config, resume=True)


def test_rows_of_a_refused_training_do_not_replace_those_of_the_run(tmp_path: Path) -> None:
    before = finished(tmp_path / "run")
    with pytest.raises(InputError, match="holds a training run"):
        DINModel(out=tmp_path / "run").train([("a", "bearing"), ("a", "seal")])
    assert contents(tmp_path / "run") == before


def test_a_folder_of_a_callers_own_goes_on_from_its_checkpoint_or_begins(tmp_path: Path) -> None:
    config = ClassifierConfig(data=(tmp_path,), out=tmp_path)
    begun = resumed_or_begun(config)
    assert (begun.resume, begun.overwrite) == (False, True)
    (tmp_path / "checkpoint.pt").touch()
    resumed = resumed_or_begun(config)
    assert (resumed.resume, resumed.overwrite) == (True, False)
