"""From a float model to a proved bundle, as a customer calls it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from lineside_converters.data.calibration_data import gather_inputs
from lineside_converters.optimizer import Optimizer, OptimizeResult
from lineside_converters.reports.builder import DRAWN_CALIBRATION, NOT_MEASURED, SIMULATED_ONLY
from lineside_converters.reports.report import read_report
from lineside_models import golden
from lineside_models.frame import Frame
from lineside_models.simulator import render
from lineside_models.vision.model_facts import ModelFacts
from lineside_runtime.bundle import open_bundle
from lineside_runtime.bundle.archive import pack_archive
from lineside_runtime.errors import (
    CalibrationError,
    ConfigError,
    ConvertError,
    DatasetError,
    InputError,
    InputNotFoundError,
    MissingModelFactsError,
    SpeedGateError,
    UnsupportedModelError,
)
from lineside_runtime.session import Session
from tests.converters import nets


def frames(count: int = 6) -> list[Frame]:
    return [Frame(image=render("steel", seed).image, sequence=seed) for seed in range(count)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "surface-float.onnx"
    path.write_bytes(nets.convnet())
    return path


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> OptimizeResult:
    return Optimizer(model, out=tmp_path_factory.mktemp("out") / "int8", frames=frames()).run()


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name != "model.onnx"]


def test_called_as_the_customer_wrote_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING, logger="lineside.convert"):
        result = Optimizer(model_path=str(model), target_device="cpu", optimization_level=1).run()
    assert result.bundle.path == Path("surface-1-int8")
    assert result.bundle.manifest.identity == "surface@1"
    assert SIMULATED_ONLY in caplog.text
    assert SIMULATED_ONLY in result.report.notes
    assert result.report.calibration is not None
    assert result.report.calibration.source == "24 frames of the line simulator"
    assert result.report.accuracy_on == "8 frames of the line simulator"


def test_the_bundle_holds_one_proved_int8_variant(made: OptimizeResult) -> None:
    opened = open_bundle(made.bundle.path)
    (variant,) = opened.manifest.variants
    assert (variant.name, variant.precision, variant.level) == ("onnx-int8", "int8", 1)
    assert {gate.name: gate.status for gate in made.report.gates} == {
        "parity": "passed",
        "accuracy": "passed",
        "baseline": "unproven",  # drawn frames only
        "speed": "passed",
    }
    assert made.int8_figures is not None
    assert opened.file(variant.file).stat().st_size == made.int8_figures.size_bytes < made.float_figures.size_bytes
    assert made.speedup > 1, "by the rounds that the gate has judged"


def test_report_card_and_golden_output_of_the_bundle_are_those_of_the_result(made: OptimizeResult) -> None:
    with Session(made.bundle) as session:
        assert min(golden.replay(session, made.bundle).cosine.values()) > 0.9999
    assert read_report(made.bundle.path) == made.report
    plain = json.loads((made.bundle.path / "report.json").read_text())
    assert plain["float"]["size_bytes"] == made.float_figures.size_bytes
    assert plain["calibration"]["frames"] == 6
    assert plain["machine"]["tools"]["onnxruntime"]
    assert made.int8_figures is not None
    card = (made.bundle.path / "model_card.md").read_text()
    assert f"{made.int8_figures.latency_ms:.2f}" in card
    assert "line simulator only" in card
    assert "not known to lineside" in card


def test_the_same_input_gives_the_same_model_and_progress_is_told_in_words(
    model: Path, made: OptimizeResult, tmp_path: Path
) -> None:
    said: list[str] = []
    again = Optimizer(model, out=tmp_path / "again", frames=frames(), on_progress=said.append).run()
    file = again.bundle.manifest.variants[0].file
    assert again.bundle.manifest.files[file] == made.bundle.manifest.files[file]
    assert again.report.calibration == made.report.calibration
    assert again.int8_figures is not None and made.int8_figures is not None
    assert again.int8_figures.map50 == made.int8_figures.map50
    assert [line.partition(":")[0].split()[0] for line in said] == [
        "surface-float.onnx", "calibrate",
        "onnx-int8", "onnx-int8", "onnx-int8", "onnx-int8",  # made, parity, accuracy, speed
        "baseline",
    ]  # fmt: skip


def test_an_int8_bundle_can_be_made_of_a_float_bundle_or_archive(model: Path, tmp_path: Path) -> None:
    parent = Optimizer(
        model, optimization_level=0, out=tmp_path / "float", frames=frames(2), name="cells-float", version="1.4.9",
        card="# cells-float\n\nFor tests.\n", training={"epochs": 3},
        licence="Apache-2.0", data_terms={"cells": "research"},
    ).run()  # fmt: skip
    assert parent.int8_figures is None
    assert parent.bundle.manifest.variants[0].name == "onnx-fp32"
    pack_archive(parent.bundle, tmp_path / "float.lsb")
    child = Optimizer(tmp_path / "float.lsb", out=tmp_path / "child", frames=frames(2)).run()
    assert child.bundle.manifest.identity == "cells@1.4.10"
    assert child.report.training == {"epochs": 3}
    assert child.report.source.sha256 == parent.bundle.manifest.files["onnx-fp32/model.onnx"].sha256
    card = (child.bundle.path / "model_card.md").read_text()
    assert card.startswith("# cells\n\nFor tests."), "the heading is the new name"
    assert card.count("## This build") == 1
    assert (child.bundle.manifest.licence, child.bundle.manifest.data_terms) == ("Apache-2.0", {"cells": "research"})
    assert "licence of the weights: Apache-2.0" in card and "`cells`: research only" in card
    grandchild = Optimizer(tmp_path / "child", out=tmp_path / "grandchild", frames=frames(2)).run()
    assert grandchild.report.source.sha256 != child.report.source.sha256, "the float form of the INT8 weights"
    assert grandchild.bundle.manifest.variants[0].precision == "int8"
    with pytest.raises(ConfigError, match="another folder than the source's"):
        Optimizer(tmp_path / "float", out=tmp_path / "float", overwrite=True, frames=frames(2)).run()
    assert open_bundle(tmp_path / "float").digest == parent.bundle.digest


def test_peak_memory_and_throughput_are_of_processes_of_their_own(tmp_path: Path) -> None:
    network = nets.load(nets.convnet())
    ballast = onnx.numpy_helper.from_array(np.ones((40, 1 << 18), np.float32), "ballast")  # 42 MB that level 0 folds
    graph = network.graph
    graph.initializer.extend([ballast, onnx.numpy_helper.from_array(np.float32(0.0), "nothing")])
    name = graph.output[0].name
    last = next(node for node in graph.node if name in node.output)
    last.output[list(last.output).index(name)] = "light"
    graph.node.extend(
        [
            onnx.helper.make_node("ReduceSum", ["ballast"], ["sum"], keepdims=0),
            onnx.helper.make_node("Mul", ["sum", "nothing"], ["weightless"]),
            onnx.helper.make_node("Add", ["light", "weightless"], [name]),
        ]
    )
    onnx.save(network, tmp_path / "heavy.onnx")
    result = Optimizer(
        tmp_path / "heavy.onnx", optimization_level=1, out=tmp_path / "out", frames=frames(2), memory=True
    ).run()
    before, after = result.float_figures, result.evaluation.accepted[0].figures
    assert before.memory_bytes is not None and after.memory_bytes is not None
    assert before.memory_bytes - after.memory_bytes > 32e6
    assert result.memory_ratio == after.memory_bytes / before.memory_bytes
    assert before.throughput_fps is not None and after.throughput_fps is not None
    assert result.throughput_ratio == after.throughput_fps / before.throughput_fps > 0
    assert "frames/s" in (tmp_path / "out" / "report.html").read_text()
    assert list(tmp_path.rglob("alone-*")) == []


@pytest.mark.parametrize("judge_fold", [None, "all"])
def test_the_frame_that_was_calibrated_on_is_not_judged_on(judge_fold: str | None, tmp_path: Path) -> None:
    """With one frame nothing is left, and accuracy is neither judged on it nor silently left out."""
    cv2.imwrite(str(tmp_path / "one.png"), render("steel", 1).image)
    (tmp_path / "boxes.csv").write_text("image,class,x1,y1,x2,y2\none.png,scratches,10,10,60,60\n")
    with pytest.raises(CalibrationError, match="left to judge on"):
        gather_inputs(nets.manifest(), limit=8, data=[tmp_path], judge_fold=judge_fold)


def test_accuracy_is_compared_on_annotated_data_of_another_fold_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(nets.cell_detector())
    data = nets.write_cells_dataset(tmp_path / "cells", 12, fold="train")
    how: dict[str, Any] = {"optimization_level": 0, "data": data}
    result = Optimizer(tmp_path / "model.onnx", out=tmp_path / "one", **how).run()
    assert result.report.accuracy_on == "6 frames of cells, fold train"
    assert result.float_figures.map50 is not None and 0.2 < result.float_figures.map50 < 1
    assert result.report.notes == ()
    lines = (data / "folds.csv").read_text().splitlines()
    (data / "folds.csv").write_text("\n".join([*lines[:8], *(line.replace("train", "val") for line in lines[8:])]))
    result = Optimizer(tmp_path / "model.onnx", out=tmp_path / "out", **how, judge_fold="val").run()
    assert result.report.accuracy_on == "5 frames of cells, fold val"
    assert sorted(str(truth.frame.part_id) for truth in result.evaluation.truths) == [
        "part_10", "part_11", "part_7", "part_8", "part_9",
    ]  # fmt: skip
    with pytest.raises(DatasetError, match="no fold 'test'"):
        Optimizer(tmp_path / "model.onnx", out=tmp_path / "none", **how | {"judge_fold": "test"}).run()
    assert not (tmp_path / "none").exists()
    (tmp_path / "model.onnx").write_bytes(nets.convnet())
    result = Optimizer(tmp_path / "model.onnx", out=tmp_path / "int8", data=data, max_drop=1.0, min_metric=0).run()
    assert result.report.accuracy_on == "5 frames of cells, fold val"
    assert result.report.calibration is not None
    assert result.report.calibration.source == "3 frames of cells, fold train"


def test_what_onnxruntime_says_of_an_input_that_does_not_fit_is_told_whole(tmp_path: Path) -> None:
    network = nets.load(nets.convnet())
    for dim in network.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.ClearField("dim_param")
        dim.dim_value = 64
    bundle = nets.bundle(tmp_path / "bundle", network.SerializeToString())
    with pytest.raises(CalibrationError, match=r"index: 2 Got: 200 Expected: 64.*pre-processing") as caught:
        Optimizer(bundle.path, out=tmp_path / "out", frames=frames(2)).run()
    assert "some hundred frames" not in str(caught.value)


def test_a_model_of_other_types_is_unjudged_and_warned_of_where_drawn_frames_calibrate_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = tuple(f"dent {number}" for number in range(12))
    facts = ModelFacts(labels=labels, preprocess=nets.PREPROCESS, postprocess=nets.POSTPROCESS)
    (tmp_path / "model.onnx").write_bytes(nets.convnet(facts=facts))
    with caplog.at_level(logging.WARNING, logger="lineside.convert"):
        result = Optimizer(tmp_path / "model.onnx", out=tmp_path / "drawn").run()
        assert DRAWN_CALIBRATION in caplog.text and "--images" in DRAWN_CALIBRATION
        assert DRAWN_CALIBRATION in result.report.notes
        caplog.clear()
        result = Optimizer(tmp_path / "model.onnx", out=tmp_path / "out", frames=frames(2)).run()
    assert result.float_figures.map50 is None
    assert result.report.notes == (NOT_MEASURED,)
    assert NOT_MEASURED in caplog.text
    assert [gate.name for gate in result.report.gates] == ["parity", "speed", "baseline"]
    assert "not measured" in (result.bundle.path / "model_card.md").read_text()


def test_a_folder_without_folds_is_not_judged_on_what_it_is_calibrated_on(tmp_path: Path) -> None:
    data = nets.write_cells_dataset(tmp_path / "cells", 12)
    (data / "folds.csv").unlink()
    (tmp_path / "model.onnx").write_bytes(nets.cell_detector())
    manifest = Optimizer(tmp_path / "model.onnx", optimization_level=0, out=tmp_path / "out").run().bundle.manifest
    inputs = gather_inputs(manifest, limit=100, data=(data,), fold="train", judge_fold="val")
    seen = {part: {truth.frame.part_id for truth in part} for part in (inputs.tuning, inputs.evaluation)}
    assert [len(parts) for parts in seen.values()] == [6, 6] and not set.intersection(*seen.values())


def test_a_model_that_int8_makes_slower_leaves_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(nets.slow_in_int8())
    with pytest.raises(SpeedGateError):
        Optimizer(tmp_path / "model.onnx", out=tmp_path / "out", frames=frames(3), max_drop=1.0).run()
    assert leftovers(tmp_path) == []


def test_a_target_that_is_not_here_is_marked_unproven(model: Path, tmp_path: Path) -> None:
    result = Optimizer(model, target_device="npu", out=tmp_path / "out", frames=frames(2)).run()
    assert any("speed unproven" in note for note in result.report.notes)
    assert result.bundle.manifest.variants[0].device_kinds == ("npu", "cpu")


@pytest.mark.parametrize("level", [4, -1])
def test_levels_that_are_not_here_are_refused_at_once(model: Path, level: int) -> None:
    with pytest.raises(ConvertError, match=f"level {level}") as caught:
        Optimizer(model, optimization_level=level)
    assert "INT8" in str(caught.value.expected) and "optimization_level=1" in caught.value.action


@pytest.mark.parametrize(
    "options", [{"target_device": "tpu"}, {"max_drop": -1}, {"max_drop": True}, {"min_speedup": 0.9}]
)
def test_values_out_of_range_are_refused_at_once(model: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Optimizer(model, **options)


def test_frames_from_a_folder_are_calibrated_on_and_rubbish_and_flat_frames_are_refused(
    model: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    flat = [Frame(image=np.full((64, 64), 9, np.uint8))] * 3
    refused: tuple[Any, ...] = (photos, [], flat)
    for given in refused:
        with pytest.raises(CalibrationError):
            Optimizer(model, out=tmp_path / "out", frames=given).run()
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    with pytest.raises(CalibrationError, match="broken") as caught:
        Optimizer(model, out=tmp_path / "out", frames=photos).run()
    assert caught.value.code == 6005
    assert not (tmp_path / "out").exists()
    (photos / "broken.png").unlink()
    for frame in frames(3):
        cv2.imwrite(str(photos / f"{frame.sequence}.png"), frame.image)
    result = Optimizer(model, out=tmp_path / "out", frames=photos).run()
    assert result.report.calibration is not None
    assert result.report.calibration.source == "3 photos of photos"


def test_a_bare_model_that_says_nothing_of_itself_gets_its_facts_as_arguments(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(nets.cell_detector(facts=None))
    with pytest.raises(MissingModelFactsError):
        Optimizer(tmp_path / "model.onnx", out=tmp_path / "out", optimization_level=0).run()
    result = Optimizer(
        tmp_path / "model.onnx",
        out=tmp_path / "out",
        optimization_level=0,
        frames=frames(2),
        labels=nets.FACTS.labels,
        preprocess=nets.PREPROCESS,
        postprocess=nets.POSTPROCESS,
    ).run()
    assert result.bundle.manifest.postprocess == nets.POSTPROCESS


def test_what_is_not_there_or_of_another_kind_and_a_place_that_is_taken_are_refused_before_any_work(
    model: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputNotFoundError):
        Optimizer(tmp_path / "none.onnx", out=tmp_path / "out").run()
    (tmp_path / "model.h5").write_bytes(b"HDF")
    with pytest.raises(UnsupportedModelError):
        Optimizer(tmp_path / "model.h5", out=tmp_path / "out").run()
    said: list[str] = []
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="in the way"):
        Optimizer(model, out=tmp_path / "out", on_progress=said.append).run()
    assert said == []
