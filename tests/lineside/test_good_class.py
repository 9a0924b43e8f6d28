"""A class of good parts, from the training to the verdict, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from lineside.cli import main
from lineside_converters.loading.source import open_source
from lineside_models.datasets.base import read_folds
from lineside_models.vision import ImageInspector
from lineside_models.vision.model_facts import ModelFacts
from lineside_runtime.bundle import open_bundle, write_manifest
from lineside_runtime.errors import UnsupportedModelError

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("short_gates")]


def write_squares(root: Path, classes: dict[str, int]) -> Path:
    """Writes grey pictures with a square in the middle, 30 a class, each class with its shade."""
    for name, grey in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(30):
            image = np.random.default_rng(number).integers(100, 130, (32, 32)).astype(np.uint8)
            image[9:23, 9:23] = grey
            cv2.imwrite(str(root / name / f"{number}.png"), image)
    return root


def train(data: Path, out: Path, *more: str) -> int:
    given = ["train", "classifier", "--data", str(data), "--out", str(out), "--epochs", "12", "--batch", "8"]
    return main([*given, "--side", "32", "--width", "0.25", "--threads", "1", *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the folders ``bad`` and ``good``."""
    folder = tmp_path_factory.mktemp("good")
    assert train(write_squares(folder / "parts", {"bad": 10, "good": 240}), folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the run's graph alone."""
    out = tmp_path_factory.mktemp("bundle") / "b"
    given = ["optimize", str(run / "float.onnx"), "--level", "0", "--no-memory", "--data", str(run.parent / "parts")]
    assert main([*given, "--out", str(out)]) == 0
    return out


def verdicts(model: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> tuple[set[str], str]:
    """Returns the verdicts on a folder, and what was said on stderr."""
    capsys.readouterr()
    assert main(["inspect", str(images), "--model", str(model), "--json"]) == 0
    said = capsys.readouterr()
    return {each["verdict"] for each in json.loads(said.out)["inspections"]}, said.err


def test_a_part_of_a_folder_named_good_passes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = run.parent / "parts"
    found, said = verdicts(run / "float.onnx", parts / "good", capsys)
    assert found == {"good"}
    assert "A part passes if good is the likeliest class" in said
    assert verdicts(run / "float.onnx", parts / "bad", capsys)[0] == {"bad"}


def test_the_bundle_of_a_run_knows_the_good_class_and_its_card_says_what_passes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(run.parent / "parts")
    made = ["bundle", "from-run", str(run), str(tmp_path / "b"), "--name", "parts", "--level", "0", "--data", data]
    assert main([*made, "--licence", "MIT", "--data-terms", "photos=CC-BY-4.0"]) == 0
    assert "good is the likeliest class" in capsys.readouterr().err
    bundle = open_bundle(tmp_path / "b")
    assert bundle.manifest.postprocess.params["good"] == [1]
    assert (bundle.manifest.licence, bundle.manifest.data_terms) == ("MIT", {"photos": "CC-BY-4.0"})
    card = bundle.file("model_card.md").read_text()
    assert "of the types bad in grey images. Good parts are of the class good." in card
    assert "A part passes if good is the likeliest class" in card
    metric = json.loads(bundle.file("report.json").read_bytes())["metric"]
    assert metric["after"] == 1.0  # good parts that are called good are right
    assert verdicts(tmp_path / "b", run.parent / "parts" / "good", capsys)[0] == {"good"}


def test_the_bundle_of_a_run_is_judged_on_images_that_the_run_was_not_trained_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = list(read_folds(run / "folds-parts.csv").values())
    made = ["bundle", "from-run", str(run), "--name", "parts", "--level", "0", "--data"]
    assert main([*made, str(run.parent / "parts"), str(tmp_path / "b")]) == 0
    assert f"on {folds.count('val')} frames of parts, fold val" in capsys.readouterr().err
    other = write_squares(tmp_path / "parts", {"bad": 10, "good": 240})
    for image in list(other.glob("*/*.png")):
        image.rename(image.with_stem(f"new-{image.stem}"))  # of other images the run's table says nothing
    assert main([*made, str(other), str(tmp_path / "c")]) == 0
    assert "of parts, fold train" in capsys.readouterr().err


@pytest.fixture(scope="module")
def all_defects(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the run without a good class."""
    out = tmp_path_factory.mktemp("all-defects") / "b"
    given = ["optimize", str(run), "--level", "0", "--no-memory", "--data", str(run.parent / "parts")]
    assert main([*given, "--out", str(out), "--no-good-class"]) == 0
    return out


def test_a_good_class_of_another_name_is_named_by_hand(
    run: Path, all_defects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["optimize", str(run / "float.onnx"), "--level", "0", "--no-memory", "--data", str(run.parent / "parts")]
    assert main([*given, "--out", str(tmp_path / "b"), "--good-class", "bad"]) == 0
    assert open_bundle(tmp_path / "b").manifest.postprocess.params["good"] == [0]
    found, said = verdicts(all_defects, run.parent / "parts" / "good", capsys)
    assert found == {"bad"} and "Every class is a defect" in said
    assert main([*given, "--out", str(tmp_path / "d"), "--good-class", "fine"]) != 0
    assert "good class 'fine'" in capsys.readouterr().err


def test_a_training_whose_good_class_isnt_there_ends_before_its_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_squares(tmp_path / "parts", {"dent": 10, "hole": 240})
    assert train(data, tmp_path / "run", "--good-class", "fine") != 0
    assert "good class 'fine'" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_thresholds_are_chosen_for_the_defects_alone_and_good_frames_stand_for_good_parts(
    run: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(run.parent / "parts")
    asked = ["decide", str(bundle), "--data", data, "--miss-cost", "20", "--reject-cost", "1", "--json"]
    assert main([*asked, "--force", "--out", str(tmp_path / "c"), "--version", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["type"] for each in found["types"]] == ["bad"]
    assert found["good_parts"]["parts"] == 30
    assert open_bundle(tmp_path / "c").manifest.postprocess.params["thresholds"][1] == 0.5
    assert verdicts(tmp_path / "c", run.parent / "parts" / "good", capsys)[0] == {"good"}


def test_a_run_is_optimized_by_its_folder_its_weights_or_its_graph(run: Path, bundle: Path, tmp_path: Path) -> None:
    given = ["optimize", str(run / "best.pt"), "--level", "0", "--no-memory", "--data", str(run.parent / "parts")]
    assert main([*given, "--out", str(tmp_path / "b")]) == 0
    for made, name, labels in ((bundle, "float", None), (tmp_path / "b", "run", ["bad", "good"])):
        manifest = open_bundle(made).manifest
        assert (manifest.name, manifest.postprocess.params["good"]) == (name, [1])
        training = json.loads((made / "report.json").read_bytes())["training"]
        assert training.get("labels") == labels


def test_a_refused_call_leaves_no_work_folder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights.pt").write_bytes((run / "best.pt").read_bytes())
    given = ["optimize", str(tmp_path / "weights.pt"), "--level", "2", "--out", str(tmp_path / "b")]
    assert main([*given, "--data", str(run.parent / "parts")]) == 1
    assert "of no architecture" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


@pytest.fixture(scope="module")
def int8_bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the run, its INT8 variant alone."""
    out = tmp_path_factory.mktemp("int8") / "b"
    made = ["optimize", str(run), "--no-memory", "--target", "rpi5-hailo", "--out", str(out)]
    assert main([*made, "--data", str(run.parent / "parts")]) == 0
    bundle = open_bundle(out)
    assert [variant.precision for variant in bundle.manifest.variants] == ["int8", "fp32"]
    write_manifest(out, msgspec.structs.replace(bundle.manifest, variants=bundle.manifest.variants[:1]))
    return out


def test_a_bundle_without_a_float_model_names_what_it_was_made_of(
    run: Path, int8_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["optimize", str(int8_bundle), "--level", "2", "--out", str(tmp_path / "c")]
    assert main([*given, "--data", str(run.parent / "parts")]) == 1
    assert "Give the float model that it was made of: run." in capsys.readouterr().err
    assert not (tmp_path / "c.work").exists()


def test_an_int8_bundle_in_or_beside_its_run_is_optimized_again_from_the_runs_float_model(
    run: Path, int8_bundle: Path, tmp_path: Path
) -> None:
    plant, facts = Path(shutil.copytree(run.parent, tmp_path / "plant")), ModelFacts()
    places = [Path(shutil.copytree(int8_bundle, plant / place)) for place in ("run/bundle", "b")]
    for place in places:
        source = open_source(place, tmp_path / "work", given=facts, trust=False)
        assert (source.facts.name, source.manifest.name) == ("run", "run")
    with (plant / "run" / "float.onnx").open("ab") as file:
        file.write(b"another")  # a run that was trained again is not what the bundle was made of
    for place in places:
        with pytest.raises(UnsupportedModelError, match="Give the float model"):
            open_source(place, tmp_path / "work", given=facts, trust=False)


def test_a_verdict_carries_the_probabilities_of_the_likeliest_classes(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = cv2.imread(str(run.parent / "parts" / "good" / "1.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    with ImageInspector(run / "float.onnx") as inspector:
        (flat,), (deep,) = inspector.predict(image), inspector.predict(image[:, :, None])
    assert next(iter(flat.probabilities)) == "good"
    assert sum(flat.probabilities.values()) == pytest.approx(1, abs=0.02)
    assert deep.probabilities == flat.probabilities
    capsys.readouterr()
    given = ["inspect", str(run.parent / "parts" / "bad" / "1.png"), "--model", str(run / "float.onnx")]
    assert main([*given, "--threshold", "1"]) == 0
    assert capsys.readouterr().out.startswith("PASS")  # there is a class of good parts, and the threshold was said
    rules = run.parent / "rules.toml"
    rules.write_text("[inspect]\nthresholds = { bad = 1.0 }\nunsure_from = { bad = 0.1 }\n")
    assert main([*given, "--rules", str(rules)]) == 0
    assert "UNSURE" in (said := capsys.readouterr().out) and "no class is sure: bad 0." in said


def test_an_older_bundle_whose_class_is_named_good_is_told_how_to_be_made_again(
    run: Path, all_defects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(all_defects, tmp_path / "old")
    manifest = open_bundle(tmp_path / "old").manifest
    how = msgspec.structs.replace(manifest.postprocess, params={})
    write_manifest(tmp_path / "old", msgspec.structs.replace(manifest, postprocess=how))
    found, said = verdicts(tmp_path / "old", run.parent / "parts" / "good", capsys)
    assert found == {"bad"} and "good counts as a defect" in said and "--good-class good" in said
    again = ["optimize", str(tmp_path / "old"), "--level", "0", "--no-memory", "--out", str(tmp_path / "new")]
    assert main([*again, "--data", str(run.parent / "parts")]) == 0
    assert verdicts(tmp_path / "new", run.parent / "parts" / "good", capsys)[0] == {"good"}
