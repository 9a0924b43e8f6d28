from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import onnx
import pytest

import lineside.vision
from lineside_models.simulator import render
from lineside_models.vision import ImageInspector
from lineside_models.vision.model_facts import METADATA_KEY, ModelFacts, example_of
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.bundle.archive import pack_archive
from lineside_runtime.config import Config
from lineside_runtime.errors import (
    BadInputFormatError,
    ConfigError,
    InputNotFoundError,
    MissingExtraError,
    MissingModelFactsError,
    UnknownHeadError,
    UnsupportedModelError,
)
from tests.models.small_detector import LABELS, POSTPROCESS, PREPROCESS, detector, detector_bundle, part

DEFECT = part((2, 5))
GIVEN: dict[str, Any] = {"labels": LABELS, "preprocess": PREPROCESS, "postprocess": POSTPROCESS}
SIDECAR = """
labels = ["bright", "dark"]
[preprocess]
input = "image"
colour = "grey"
min_side = 32
max_side = 64
multiple_of = 8
[postprocess]
name = "dfl_anchor_free"
params = { strides = [8], reg_bins = 4 }
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "steel.onnx"
    path.write_bytes(detector())
    return path


def judged(inspector: ImageInspector) -> str:
    (verdict,) = inspector.predict(DEFECT)
    return verdict.detections[0].type


def test_the_customers_lines(tmp_path: Path) -> None:
    """As written in the order: a model path, a threshold, a batch size, and images."""
    bundle = detector_bundle(tmp_path / "b")
    images = [DEFECT, part(), np.dstack([DEFECT] * 3)]
    inspector = lineside.vision.QualityInspector(model_path=bundle.path, confidence_threshold=0.9, batch_size=16)
    results = inspector.predict(images)
    assert [result.passed for result in results] == [False, True, False]
    assert results[0].detections[0].type == "bright"
    assert results[0].detections[0].box == pytest.approx((36, 12, 52, 28), abs=0.01)
    inspector.close()


def test_a_path_given_as_text_and_an_archive(tmp_path: Path) -> None:
    bundle = detector_bundle(tmp_path / "b")
    pack_archive(bundle, tmp_path / "b.lsb")
    for path in (str(bundle.path), str(tmp_path / "b.lsb"), tmp_path / "b.lsb"):
        with ImageInspector(path) as inspector:
            assert judged(inspector) == "bright"


def test_a_folder_of_photos_in_small_batches(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(5):
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), part((number, 0)))
    bundle = detector_bundle(tmp_path / "b")
    with ImageInspector(bundle.path, batch_size=2, config=Config(threads=1)) as inspector:
        verdicts = inspector.predict(tmp_path / "photos")
        assert inspector.session.calls == 3
    assert [verdict.part_id for verdict in verdicts] == list("01234")
    assert all(not verdict.passed for verdict in verdicts)


def test_preprocess_gives_what_the_session_takes(tmp_path: Path) -> None:
    with ImageInspector(detector_bundle(tmp_path / "b").path) as inspector:
        batch = inspector.preprocess([DEFECT, part()])
        assert batch.shape == (2, 1, 48, 64)
        assert set(inspector.session.predict(batch)) == {"cls_8", "box_8"}
        with pytest.raises(BadInputFormatError):
            inspector.session.predict(DEFECT)
        with pytest.raises(BadInputFormatError, match="one batch"):
            inspector.preprocess([DEFECT, part(size=(64, 64))])


# a bare ONNX file


def test_facts_come_from_arguments_a_sidecar_or_the_metadata(model: Path) -> None:
    for given in (GIVEN, {key: msgspec.to_builtins(value) for key, value in GIVEN.items()}):
        with ImageInspector(model, **given) as inspector:
            assert judged(inspector) == "bright"
    model.with_suffix(".toml").write_text(SIDECAR)
    with ImageInspector(model) as inspector:
        assert judged(inspector) == "bright"
    model.with_suffix(".toml").unlink()
    with_metadata(model, msgspec.json.encode(GIVEN).decode())
    with ImageInspector(model) as inspector:
        assert judged(inspector) == "bright"


def with_metadata(model: Path, value: str) -> None:
    graph = onnx.load(model)
    graph.metadata_props.add(key=METADATA_KEY, value=value)
    onnx.save(graph, model)


def test_arguments_come_before_the_sidecar_and_the_sidecar_before_the_metadata(model: Path) -> None:
    with_metadata(model, msgspec.json.encode({**GIVEN, "labels": ["meta", "data"]}).decode())
    with ImageInspector(model) as inspector:
        assert judged(inspector) == "meta"
    model.with_suffix(".toml").write_text('labels = ["side", "car"]')
    with ImageInspector(model) as inspector:
        assert judged(inspector) == "side"
    with ImageInspector(model, labels=["argu", "ments"]) as inspector:
        assert judged(inspector) == "argu"


def test_missing_facts_are_named_with_an_example_that_works(model: Path) -> None:
    with pytest.raises(MissingModelFactsError) as caught:
        ImageInspector(model, labels=LABELS)
    assert caught.value.code == 2004
    assert caught.value.message.endswith("does not say its preprocess")  # the decoder is known by names of outputs
    assert str(model.with_suffix(".toml")) in str(caught.value.expected)
    example = example_of(read_onnx(model), ModelFacts(labels=LABELS))
    assert example in caught.value.action
    model.with_suffix(".toml").write_text(example)
    with ImageInspector(model) as inspector:
        assert inspector.session.manifest.labels == ("scratch", "dent")


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        (SIDECAR.replace("min_side = 32", 'mean = "grey"'), r"\$\.preprocess\.mean"),
        (SIDECAR.replace("min_side = 32", "menu = [1.0]"), r"menu.*\$\.preprocess"),
        (SIDECAR.replace('"grey"', '"purple"'), r"\$\.preprocess\.colour"),
        ("label = []", "label"),
        ("labels = [", "not TOML"),
        ("labels = [" + '"a",' * 500_000 + "]", "too large"),
    ],
)
def test_a_mistake_in_the_sidecar_is_named_with_its_path(model: Path, sidecar: str, message: str) -> None:
    model.with_suffix(".toml").write_text(sidecar)
    with pytest.raises(ConfigError, match=message):
        ImageInspector(model)


@pytest.mark.parametrize(("value", "message"), [("{", "not JSON"), ('{"labels": 3}', r"\$\.labels")])
def test_a_mistake_in_the_metadata_is_named(model: Path, value: str, message: str) -> None:
    with_metadata(model, value)
    with pytest.raises(ConfigError, match=message):
        ImageInspector(model)


def test_facts_that_do_not_fit_are_refused(model: Path, tmp_path: Path) -> None:
    wrong = msgspec.structs.replace(PREPROCESS, input="picture")
    with pytest.raises(UnsupportedModelError, match="picture"):
        ImageInspector(model, **{**GIVEN, "preprocess": wrong})
    with pytest.raises(ConfigError, match="labels"):
        ImageInspector(detector_bundle(tmp_path / "b").path, labels=LABELS)
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"regions": [{"kind": "inspect"}]}, "polygon"),
        ({"rules": {"thresholds": {"scratch": 0.4}}}, "no type 'scratch'"),
    )
    for rules, words in refused:
        with pytest.raises(ConfigError, match=words):
            ImageInspector(**rules)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("none.onnx", None, InputNotFoundError),
        ("none", None, InputNotFoundError),
        ("model.h5", b"x", UnsupportedModelError),
        ("model.onnx", b"no model", UnsupportedModelError),
        ("model.pt", b"x", MissingExtraError),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, name: str, content: bytes | None, error: type[Exception]) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error):
        ImageInspector(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "value"),
    [("confidence_threshold", 1.1), ("confidence_threshold", "high"), ("confidence_threshold", True),
     ("batch_size", 0), ("batch_size", 1.0), ("batch_size", True)],
)  # fmt: skip
def test_values_out_of_range_are_refused_before_anything_is_loaded(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        ImageInspector("nowhere", **{name: value})


def test_regions_and_rules_decide_what_counts() -> None:
    frame = render("pcb", 7, defects=5)
    with ImageInspector(confidence_threshold=0.4) as inspector:
        (everywhere,) = inspector.predict(frame.image)
    left = {"kind": "inspect", "polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}
    with ImageInspector(confidence_threshold=0.4, regions=[left]) as inspector:
        (verdict,) = inspector.predict(frame.image)
    middles = [(found.box[0] + found.box[2]) / 2 for found in everywhere.detections]
    assert 0 < len(verdict.detections) < len(everywhere.detections)
    assert len(verdict.detections) == sum(middle < 320 for middle in middles)
    with ImageInspector(
        confidence_threshold=0.9, rules={"thresholds": {"*": 0.999}, "unsure_from": {"*": 0.2}}
    ) as each:
        (doubt,) = each.predict(frame.image)
    assert (doubt.verdict, doubt.passed) == ("unsure", False)
    assert doubt.doubtful


def test_no_temporary_file_remains(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with ImageInspector(model, **GIVEN):
        assert list(temporary.iterdir())
    assert list(temporary.iterdir()) == []
    with pytest.raises(MissingModelFactsError):
        ImageInspector(model)
    assert list(temporary.iterdir()) == []


def test_the_shipped_bundle_is_the_default_and_its_own_thresholds_hold() -> None:
    frames = [render("steel", seed).image for seed in range(8)]
    with lineside.vision.QualityInspector() as inspector, ImageInspector(confidence_threshold=0.99) as strict:
        manifest = inspector.session.manifest
        assert len(manifest.labels) == 12
        thresholds = dict(zip(manifest.labels, manifest.postprocess.params["thresholds"], strict=True))
        found = [each for verdict in inspector.predict(frames) for each in verdict.detections]
        sure = [each for verdict in strict.predict(frames) for each in verdict.detections]
    assert min(thresholds.values()) < 0.99
    assert all(each.score >= thresholds[each.type] for each in found)
    assert any(each.score < 0.99 for each in found)
    assert all(each.score >= 0.99 for each in sure)


def test_a_shipped_bundle_is_opened_by_its_name_and_without_one_the_error_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ImageInspector("surface-12-float") as inspector:
        assert inspector.session.manifest.name == "surface-12-float"
        assert inspector.predict(render("steel", 3).image)[0].verdict in ("good", "bad")
    with pytest.raises(InputNotFoundError, match="Did you mean surface-12"):
        ImageInspector("surface-13")
    monkeypatch.setattr("lineside_models.vision.image_inspector.SHIPPED", tmp_path / "none")
    with pytest.raises(InputNotFoundError, match="model_path"):
        ImageInspector()


def test_inspecting_and_learning_import_no_torch_and_a_pt_file_names_the_extra_that_it_needs(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"x")
    script = (
        "import sys, lineside.vision, lineside_models.anomaly.learning, lineside_models.anomaly.packaging\n"
        "heavy = {'torch', 'onnx', 'openvino', 'lineside_converters', 'ray', 'nncf', 'scipy', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "sys.modules['torch'] = None\n"
        "import lineside_converters.optimizer, lineside_converters.evaluation.bundle_accuracy\n"
        "from lineside_runtime.errors import LinesideError\n"
        f"try: lineside.vision.QualityInspector({str(tmp_path / 'm.pt')!r})\n"
        "except LinesideError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imported, _, said = run.stdout.partition("\n")
    assert imported == "[]"
    assert said.startswith("[2006] ") and "pip install 'lineside[train]'" in said


# a .pt file


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch", reason="the train extra is not installed")
    from lineside_models.networks import build

    path = tmp_path_factory.mktemp("weights") / "surface.pt"
    torch.manual_seed(0)
    torch.save(build("surface_detector_lite0", num_classes=12).state_dict(), path)
    return path


@pytest.mark.torch
def test_a_state_dict_of_a_known_architecture_inspects(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with lineside.vision.QualityInspector(weights, None) as inspector:
        (verdict,) = inspector.predict(np.full((100, 100), 128, np.uint8))
        assert verdict.used_device == "ort/cpu:0"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.torch
def test_the_sidecar_of_a_pt_stands_beside_the_pt(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    shutil.copy(weights, path)
    names = [f"type{number}" for number in range(12)]
    path.with_suffix(".toml").write_text(f"labels = {names}")
    with lineside.vision.QualityInspector(path) as inspector:
        assert inspector.session.manifest.labels == tuple(names)
        assert inspector.session.manifest.name == "mine"


def ultralytics_export(path: Path, *, task: str = "detect", side: int = 32) -> Path:
    """A graph with the shapes and metadata of an ``ultralytics`` export; it finds a box where the frame is bright."""
    cells = (side // 8) ** 2 + (side // 16) ** 2 + (side // 32) ** 2
    helper = onnx.helper
    mean = helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0)
    base = np.zeros((1, 6, cells), np.float32)
    base[0, :4, 0] = 16, 12, 8, 10
    base[0, 4:] = -20
    slope = np.zeros((1, 6, cells), np.float32)
    slope[0, 5, 0] = 22
    nodes = [
        mean,
        helper.make_node("Mul", ["mean", "slope"], ["m"]),
        helper.make_node("Add", ["m", "base"], ["sums"]),
        helper.make_node("Split", ["sums", "sizes"], ["boxes", "logits"], axis=1),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("output0", onnx.TensorProto.FLOAT, [1, 6, cells])],
        [
            onnx.numpy_helper.from_array(array, name)
            for name, array in (("base", base), ("slope", slope), ("sizes", np.array([4, 2])))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    said = {
        "description": "Ultralytics YOLO11n model",
        "task": task,
        "names": "{0: 'dent', 1: 'glare'}",
        "stride": "32",
    }
    helper.set_model_props(model, said)
    onnx.save(model, path)
    return path


def test_an_export_of_ultralytics_needs_no_sidecar(tmp_path: Path) -> None:
    with ImageInspector(ultralytics_export(tmp_path / "yolo11n.onnx")) as inspector:
        assert inspector.session.manifest.postprocess.name == "yolov8"
        dark_image = np.zeros((64, 64, 3), np.uint8)
        dark_image[:32] = 8  # an even frame is a fault
        bright, dark = inspector.predict([np.full((64, 64, 3), 250, np.uint8), dark_image])
    assert dark.passed
    (detection,) = bright.detections
    assert (detection.type, detection.box) == ("glare", (24, 14, 40, 34))
    assert detection.score == pytest.approx(1 / (1 + np.exp(20 - 22 * 250 / 255)), abs=1e-4)


def test_what_an_export_of_ultralytics_does_not_tell_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingModelFactsError, match="preprocess"):
        ImageInspector(ultralytics_export(tmp_path / "m.onnx", task="classify"))
    with pytest.raises(UnknownHeadError) as caught:
        ImageInspector(ultralytics_export(tmp_path / "m.onnx"), labels=["one"])
    assert caught.value.code == 2010
