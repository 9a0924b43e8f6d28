"""A detector that infers the mirror image, too: what its graph computes, and when it is a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from lineside.cli import main
from lineside_converters.bundles.packaging import build_bundle
from lineside_converters.bundles.test_time_augmentation import add_mirrored
from lineside_converters.graph.mirror import SIDES, mirror_graph
from lineside_converters.reports.report import read_report
from lineside_converters.thresholds.frames import FrameRequest
from lineside_converters.training.initial_weights import open_start
from lineside_models import zoo
from lineside_runtime.bundle import Bundle, open_bundle, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.errors import AccuracyGateError, ConfigError, UnsupportedModelError
from lineside_runtime.session import Session
from tests.converters import nets
from tests.converters.test_packaging import report

CARD = "# cells\n\n## Thresholds\n\nby hand\n"
BLIND = -5.0
"""Logit of a cell where the half-blind detector sees nothing: no find, and a mean with one that is sure is one."""


def half_blind() -> bytes:
    """A detector that sees the left half of a picture only."""
    model = nets.load(nets.cell_detector())
    for node in model.graph.node:
        node.output[:] = ["seen" if name == "cls_8" else name for name in node.output]
    constants = {"last": np.array(3, np.int64), "half": np.float32(0.5), "blind": np.float32(BLIND)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("Equal", ["seen", "seen"], ["everywhere"]),
            helper.make_node("Cast", ["everywhere"], ["ones"], to=onnx.TensorProto.FLOAT),
            helper.make_node("CumSum", ["ones", "last"], ["column"]),
            helper.make_node("ReduceMax", ["column"], ["columns"], axes=[3], keepdims=1),
            helper.make_node("Div", ["column", "columns"], ["place"]),
            helper.make_node("LessOrEqual", ["place", "half"], ["left"]),
            helper.make_node("Where", ["left", "seen", "blind"], ["cls_8"]),
        ]
    )
    data: bytes = model.SerializeToString()
    return data


def write(folder: Path, data: bytes, **changes: Any) -> Bundle:
    folder.mkdir()
    (folder / "net.onnx").write_bytes(data)
    manifest = msgspec.structs.replace(nets.manifest(), **changes)
    models = {manifest.variants[0].file: folder / "net.onnx"}
    return build_bundle(folder / "bundle", manifest=manifest, models=models, report=report(), card=CARD)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nets.write_cells_dataset(tmp_path_factory.mktemp("cells") / "data", 12)


def asked(data: Path) -> FrameRequest:
    return FrameRequest(data=[data], fold="val", take="all")


@pytest.mark.parametrize("engine", ["ort", "openvino"])
@pytest.mark.parametrize("size", [(1, 64, 96), (3, 32, 64)])
def test_each_output_is_the_mean_of_frame_and_mirror_image(
    tmp_path: Path, engine: str, size: tuple[int, int, int]
) -> None:
    slim = open_bundle(zoo.path("surface-12"))
    once = next(variant for variant in slim.manifest.variants if not variant.name.endswith("-mirrored"))
    onnx.save(mirror_graph(onnx.load(slim.file(once.file)), slim.manifest), tmp_path / "twice.onnx")
    images = np.random.default_rng(1).normal(0, 0.3, (size[0], 1, *size[1:])).astype(np.float32)
    with Session(slim, Config(engines=(engine,), threads=1)) as session:
        session.reload(optimization_level=once.level)
        assert session.variant == once.name
        of_each = [
            {name: np.array(value) for name, value in session.predict(each).items()}
            for each in (images, np.ascontiguousarray(images[..., ::-1]))
        ]
    if engine == "ort":
        found = onnxruntime.InferenceSession(tmp_path / "twice.onnx").run(None, {"image": images})
        twice = dict(zip([output.name for output in slim.manifest.outputs], found, strict=True))
    else:
        import openvino

        compiled = openvino.Core().compile_model(tmp_path / "twice.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        twice = {output.any_name: value for output, value in compiled({"image": images}).items()}
    for name, own in of_each[0].items():
        other = of_each[1][name][..., ::-1]
        if name.startswith("box_"):
            bins = other.reshape(other.shape[0], len(SIDES), -1, *other.shape[2:])
            other = bins[:, [2, 1, 0, 3]].reshape(other.shape)
        np.testing.assert_allclose(twice[name], (own + other) / 2, atol=1e-4 if engine == "ort" else 0.3)


def test_it_finds_what_the_frame_alone_does_not_show_and_is_added_once(tmp_path: Path, data: Path) -> None:
    old = write(tmp_path / "old", half_blind())
    (old.path / "decision.json").write_text("{}")
    old = write_manifest(old.path, old.manifest)
    done = add_mirrored(old, asked(data), tmp_path / "new", version="2.0.0")
    assert done.drop.after > done.drop.before + 0.2
    new = open_bundle(tmp_path / "new").manifest
    assert [variant.name for variant in new.variants] == ["onnx-fp32-mirrored", "onnx-fp32"]
    assert new.files["onnx-fp32/model.onnx"] == old.manifest.files["onnx-fp32/model.onnx"]
    assert (new.version, new.speed) == ("2.0.0", "measured")
    assert new.golden is not None and new.golden.variant == "onnx-fp32-mirrored"
    assert (tmp_path / "new" / "decision.json").read_text() == "{}"
    told = read_report(tmp_path / "new").variants[0]
    assert told.kept and "mirror image: mAP@0.5" in told.why
    card = (tmp_path / "new" / "model_card.md").read_text()
    assert 0 < card.index("## Test-time augmentation") < card.index("## Thresholds\n\nby hand")
    assert f"in {done.slowdown:.2f} × the time" in told.why
    with pytest.raises(ConfigError, match="without test-time augmentation"):
        add_mirrored(open_bundle(tmp_path / "new"), asked(data), tmp_path / "newer")


def test_where_the_mirror_image_finds_no_more_or_cannot_be_turned_back_there_is_no_bundle(
    tmp_path: Path, data: Path
) -> None:
    old = write(tmp_path / "old", nets.cell_detector())
    with pytest.raises(AccuracyGateError, match="finds no more"):
        add_mirrored(old, asked(data), tmp_path / "new")
    with pytest.raises(UnsupportedModelError, match="dfl_anchor_free"):
        add_mirrored(open_bundle(zoo.path("patch-features")), asked(data), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_devices_that_choose_a_variant_by_its_speed_do_not_choose_the_plain_one(tmp_path: Path, data: Path) -> None:
    old = write(tmp_path / "old", half_blind(), speed="unproven")
    with pytest.raises(ConfigError, match="speed is measured"):
        add_mirrored(old, asked(data), tmp_path / "new")
    variants = tuple(msgspec.structs.replace(one, level=1) for one in old.manifest.variants)
    old = write_manifest(old.path, msgspec.structs.replace(old.manifest, variants=variants))
    made = add_mirrored(old, asked(data), tmp_path / "new")
    assert made.bundle.manifest.speed == "by_level"
    assert [variant.name for variant in made.bundle.manifest.to_time] == [made.variant]


def test_the_first_layers_see_one_image_after_the_other(tmp_path: Path) -> None:
    slim = open_bundle(zoo.path("surface-12"))
    once = onnx.load(slim.file("onnx-int8/model.onnx"))
    graph = mirror_graph(once, slim.manifest).graph
    kinds = [node.op_type for node in graph.node]
    layers = sum(node.op_type == "Conv" for node in once.graph.node)
    assert kinds[: kinds.index("Concat")].count("Conv") == 2 * (kinds.count("Conv") - layers) > 10


def test_training_goes_on_from_the_variant_without_test_time_augmentation(tmp_path: Path) -> None:
    slim = open_bundle(zoo.path("surface-12"))
    shutil.copytree(slim.path, tmp_path / "slim")
    once = next(variant for variant in slim.manifest.variants if not variant.name.endswith("-mirrored"))
    twice = msgspec.structs.replace(once, name="onnx-int8-mirrored", file="onnx-int8-mirrored/model.onnx")
    (tmp_path / "slim" / "onnx-int8-mirrored").mkdir(exist_ok=True)
    onnx.save(mirror_graph(onnx.load(slim.file(once.file)), slim.manifest), tmp_path / "slim" / twice.file)
    write_manifest(tmp_path / "slim", msgspec.structs.replace(slim.manifest, variants=(twice, once)))
    frame = torch.from_numpy(np.random.default_rng(2).normal(0, 0.3, (1, 1, 224, 224)).astype(np.float32))
    network = open_start(tmp_path / "slim", [frame]).network
    alone = open_start(slim.file(once.file), [frame]).network
    for mine, other in zip(network.module(frame), alone.module(frame), strict=True):
        torch.testing.assert_close(mine, other)


def test_the_command_says_what_it_brings_and_costs(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, out = write(tmp_path / "old", half_blind()), tmp_path / "new"
    call = ["bundle", "mirror", str(old.path), str(out), "--data", str(data), "--fold", "val"]
    assert main([*call, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["map50"] > said["map50_before"]
    assert said["gain"]["low"] <= said["gain"]["value"] <= said["gain"]["high"]
    assert said["digest"] == open_bundle(out).digest
    assert main([*call, "--overwrite"]) == 0
    assert "lineside bundle refit" in capsys.readouterr().out
