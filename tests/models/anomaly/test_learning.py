"""Learning from good frames alone, and the bundle that comes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from lineside_models import zoo
from lineside_models.anomaly.learning import AnomalyModel, LearningOptions, learn
from lineside_models.anomaly.packaging import report_of, write_bundle
from lineside_models.frame import Frame
from lineside_models.golden import replay
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_models.vision import ImageInspector
from lineside_runtime.bundle import open_bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import BundleIntegrityError, ConfigError, InputError
from lineside_runtime.registry import missing
from lineside_runtime.session import Session

ONE = Config(engines=("ort",), threads=1)


def _frame(seed: int, defects: int = 0) -> Frame:
    return Frame(image=render("steel", seed, defects=defects).image, part_id=str(seed))


@pytest.fixture(scope="module")
def learnt() -> AnomalyModel:
    return learn((_frame(seed) for seed in range(14)), LearningOptions(bank_bytes=64_000))


@pytest.fixture(scope="module")
def bundle(learnt: AnomalyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learnt") / "boards"
    write_bundle(learnt, out, name="boards", source="the simulator")
    return out


def test_frames_of_one_part_are_left_out_together() -> None:
    """Four frames that are nearly one: by itself each is known from the others, on the line its part is new."""
    random = np.random.default_rng(0)
    frames = [
        (number, np.clip(render("steel", number).image + random.normal(0, 1, (200, 200, 3)), 0, 255).astype(np.uint8))
        for number in range(12)
        for _ in range(4)
    ]
    apart = learn(Frame(image=image) for _, image in frames)
    together = learn(Frame(image=image, part_id=f"part {number}") for number, image in frames)
    assert (apart.parts, together.parts) == (48, 12)
    assert together.warning.startswith("48 frames of 12 parts")
    above = {}
    for name, model in (("apart", apart), ("together", together)):
        gains, offsets = np.array(model.threshold.gains), np.array(model.threshold.offsets)
        above[name] = (model.threshold.value - offsets.sum()) / gains.mean()  # as a distance
    assert above["together"] > above["apart"]


def test_the_bundle_is_one_like_any_other(bundle: Path, learnt: AnomalyModel) -> None:
    opened = open_bundle(bundle)
    assert opened.manifest.task == "anomaly"
    assert opened.manifest.labels == ("anomaly",)
    assert 0 < learnt.bank_bytes <= 64_000
    with Session(opened, ONE) as session:
        report = replay(session, opened)
    assert min(report.cosine.values()) > 0.999
    model = bundle / opened.manifest.variants[0].file
    onnx.checker.check_model(onnx.load(model), full_check=True)
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    try:
        with pytest.raises(BundleIntegrityError):
            open_bundle(bundle)
    finally:
        write_bundle(learnt, bundle, name="boards", source="the simulator", overwrite=True)


def test_the_graph_finds_the_lower_distance_of_frame_and_mirror_image(bundle: Path, learnt: AnomalyModel) -> None:
    image = _frame(99, defects=3).image
    how = learnt.source.manifest.preprocess
    tensor = prepare(image, how)[0]
    with Session(learnt.source, ONE) as features, Session(bundle, ONE) as search:
        looks = [features.predict({how.input: np.ascontiguousarray(one)}) for one in (tensor, tensor[:, :, ::-1])]
        maps = search.predict({how.input: tensor})
    scales = zip(learnt.strides, learnt.banks, learnt.threshold.gains, learnt.threshold.offsets, strict=True)
    for stride, bank, gain, offset in scales:
        own, mirrored = (
            bank.distances(cells[f"features_{stride}"][0].reshape(bank.whiten.shape[0], -1).T) for cells in looks
        )
        side = round(len(own) ** 0.5)
        lower = np.minimum(own, mirrored.reshape(side, side)[::-1].ravel())
        assert (lower < own).mean() > 0.2
        found = (maps[f"map_{stride}"].ravel() - offset) / gain
        # The engine fuses the two graphs otherwise, so that the features differ in their last INT8 step.
        np.testing.assert_allclose(found, lower, rtol=0.02)


def test_a_foreign_thing_on_the_part_is_found_where_it_lies_and_good_parts_score_less(bundle: Path) -> None:
    good = [_frame(seed) for seed in range(50, 56)]
    bad = []
    for seed in range(60, 66):
        image = _frame(seed).image.copy()
        cv2.rectangle(image, (120, 80), (160, 110), (250,) * 3, -1)
        bad.append(Frame(image=image))
    with ImageInspector(bundle, None, config=ONE) as inspector:
        verdicts = inspector.predict([*good, *bad])
        heat = inspector.heat_map(bad[0])
    scores = [one.anomaly_score for one in verdicts if one.anomaly_score is not None]
    assert len(scores) == len(verdicts)
    assert max(scores[:6]) < min(scores[6:])
    for verdict in verdicts[6:]:
        assert not verdict.passed
        x1, y1, x2, y2 = verdict.detections[0].box
        assert x1 < 140 < x2
        assert y1 < 95 < y2
    assert heat.shape == bad[0].image.shape[:2]
    assert heat[95, 140] > 0.5
    assert float(np.median(heat)) < 0.1


def test_a_passed_frame_says_its_score_and_how_near_it_came_and_openvino_reads_the_same_file(bundle: Path) -> None:
    with ImageInspector(bundle, None, config=ONE) as inspector:
        (verdict,) = inspector.predict(_frame(3))
    assert verdict.passed
    assert verdict.anomaly_score is not None
    assert verdict.near_miss == pytest.approx(verdict.anomaly_score / 0.5, rel=1e-5)
    if missing("openvino") is None:
        opened = open_bundle(bundle)
        with Session(opened, Config(engines=("openvino",), threads=1)) as session:
            assert replay(session, opened).used_device.startswith("openvino")


def test_the_same_frames_and_seed_give_the_same_model(learnt: AnomalyModel) -> None:
    from lineside_models.anomaly.packaging import model_bytes

    again = learn((_frame(seed) for seed in range(14)), LearningOptions(bank_bytes=64_000))
    assert model_bytes(again) == model_bytes(learnt)


def test_too_few_frames_and_one_picture_again_and_again_are_refused() -> None:
    with pytest.raises(InputError, match="too few different pictures"):
        learn(_frame(seed) for seed in range(3))
    with pytest.raises(InputError, match="too few different pictures"):
        learn((_frame(1) for _ in range(10)), LearningOptions(mirror=False, bank_bytes=9_000))


def test_options_out_of_range_are_refused_before_any_frame_is_taken() -> None:
    def frames() -> object:
        raise AssertionError("a frame was taken")
        yield

    wrong: tuple[dict[str, Any], ...] = (
        {"quantile": 1.0}, {"quantile": 0.2}, {"threads": 0}, {"seed": -1}, {"bank_bytes": 10}
    )  # fmt: skip
    for options in wrong:
        with pytest.raises(ConfigError):
            learn(frames(), LearningOptions(**options))  # type: ignore[arg-type]  # nothing is taken from it


def test_a_bundle_needs_a_name_and_a_free_place_and_other_models_have_no_heat_map(
    learnt: AnomalyModel, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="name"):
        write_bundle(learnt, tmp_path / "a", name="no name/..")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="in the way"):
        write_bundle(learnt, tmp_path / "b", name="b", overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "mine.txt"]
    with ImageInspector(zoo.path("surface-12"), config=ONE) as other, pytest.raises(ConfigError, match="heat"):
        other.heat_map(_frame(1))


def test_bad_parts_among_the_good_are_named_and_hardly_raise_the_threshold() -> None:
    good, bad = [_frame(seed) for seed in range(24)], []
    for seed in (97, 98, 99):
        image = _frame(seed).image.copy()
        cv2.rectangle(image, (60, 40), (150, 140), (250,) * 3, -1)
        bad.append(Frame(image=image, part_id=f"bad {seed}", source=f"/photos/bad {seed}.png"))
    clean, mixed = learn(good), learn([*good, *bad])
    assert {f"/photos/bad {seed}.png" for seed in (97, 98, 99)} <= set(mixed.suspects)
    reported = report_of(dataclasses.replace(mixed, suspects=("/photos/a/1.png", "/photos/b/2.png")), "photos")
    assert reported["suspects"] == ["a/1.png", "b/2.png"]
    assert len(mixed.suspects) <= 5
    limits = [
        (model.threshold.value - sum(model.threshold.offsets)) / np.mean(model.threshold.gains)
        for model in (clean, mixed)
    ]
    assert limits[1] < 1.2 * limits[0]
