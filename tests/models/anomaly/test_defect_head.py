"""A head beside the banks, trained on marked bad parts, whose defects are pasted on further good frames."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside_models.anomaly.copy_paste import COPIES, paste_defects
from lineside_models.anomaly.defect_head import MarkedFrame, cells_in, collect_marked, defect_cells, train_head
from lineside_models.anomaly.defect_types import UNTYPED, fit_types
from lineside_models.anomaly.extension import read_model
from lineside_models.anomaly.features import FrameFeatures, collect_features
from lineside_models.anomaly.learning import AnomalyModel, LearningOptions, joined, learn
from lineside_models.anomaly.packaging import model_bytes, write_bundle
from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_models.metrics import auroc
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_runtime.config import Config
from lineside_runtime.registry import missing
from lineside_runtime.session import Session

BANK = LearningOptions(bank_bytes=64_000)


def _frame(seed: int, *, faint: bool = False) -> MarkedFrame:
    """Returns a frame of strip; a faint spot on it is hard to tell from its grain."""
    image = render("steel", seed, defects=0).image.copy()
    left, top = 30 + 11 * seed % 120, 40 + 17 * seed % 110
    if faint:
        patch = image[top : top + 24, left : left + 24].astype(np.int16)
        image[top : top + 24, left : left + 24] = np.clip(patch + 14, 0, 255)
    boxes = np.array([[left, top, left + 24, top + 24]] if faint else np.zeros((0, 4)), np.float32)
    return MarkedFrame(Frame(image=image, part_id=f"{seed}"), boxes)


def _good() -> list[Frame]:
    return [_frame(seed).frame for seed in range(20)]


@pytest.fixture(scope="module")
def marked() -> AnomalyModel:
    return learn(_good(), BANK, marked=[_frame(seed, faint=True) for seed in range(100, 120)])


@functools.cache
def _judged() -> tuple[FrameFeatures, FrameFeatures]:
    """Features of good frames and of bad ones that no model has learned from."""
    good, bad = (
        collect_features(_frame(seed, faint=faint).frame for seed in seeds)
        for faint, seeds in ((False, range(300, 320)), (True, range(400, 420)))
    )
    return good, bad


def _auroc(model: AnomalyModel) -> float:
    return auroc(*(model.sums(each.scales) for each in _judged()))


def test_marked_parts_find_what_good_parts_alone_do_not(marked: AnomalyModel) -> None:
    assert _auroc(marked) > _auroc(learn(_good(), BANK)) + 0.02


def test_the_graph_computes_what_the_model_does_and_is_read_again(marked: AnomalyModel, tmp_path: Path) -> None:
    bundle = write_bundle(marked, tmp_path / "b", name="b")
    tensor = prepare(_frame(7, faint=True).frame.image, marked.source.manifest.preprocess)[0]
    engines = ["ort", *(["openvino"] if missing("openvino") is None else [])]
    one = Config(engines=("ort",), threads=1)
    with Session(marked.source, one) as features:
        looks = [features.predict({"image": np.ascontiguousarray(one)}) for one in (tensor, tensor[:, :, ::-1])]
    scales = tuple(
        np.stack([cells[f"features_{stride}"][0].reshape(1, size, -1).swapaxes(1, 2) for cells in looks])
        for stride, size in ((16, 120), (32, 208))
    )
    wanted = marked.maps(scales)
    for engine in engines:
        with Session(bundle, Config(engines=(engine,), threads=1)) as session:
            maps = session.predict({"image": tensor})
        assert list(maps) == ["map_16", "map_32", "map_marked"]
        for name, expected in zip(maps, wanted, strict=True):
            assert np.corrcoef(maps[name].ravel(), expected[0])[0, 1] > 0.98  # engines round INT8 features otherwise
            assert maps[name].mean() == pytest.approx(float(expected.mean()), abs=0.2 * float(expected.std()))
    assert model_bytes(read_model(bundle)) == model_bytes(marked)
    assert joined(marked.banks, scales).shape == (2, 1, 400, 328)


def test_a_head_learns_what_a_line_cannot_divide() -> None:
    """Bad cells lie on a ring around the good ones."""
    random = np.random.default_rng(0)
    good = random.standard_normal((600, 2)).astype(np.float32)
    angle = random.uniform(0, 2 * np.pi, 300)
    ring = (5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)
    head = train_head(good[:400], [ring[:100], ring[100:200]], seed=0)
    assert auroc(head.values(good[400:]), head.values(ring[200:])) > 0.97


def test_a_box_is_shown_by_the_cells_whose_middle_is_in_it_and_by_one_at_least() -> None:
    shown = cells_in(np.array([[0, 0, 100, 50], [199, 199, 200, 200]]), (200, 200), 20).reshape(20, 20)
    wanted = np.zeros((20, 20), np.bool_)
    wanted[:5, :10] = wanted[19, 19] = True
    np.testing.assert_array_equal(shown, wanted)
    assert not cells_in(np.zeros((0, 4)), (100, 100), 20).any()
    assert cv2.countNonZero(cells_in(np.array([[10, 0, 12, 100]]), (100, 100), 20).astype(np.uint8)) == 20


def test_the_defect_is_the_quarter_of_a_box_that_the_banks_know_least() -> None:
    strangeness = np.array([9, 1, 2, 3, 4, 5], np.float32)
    boxed = np.array([False, True, True, True, True, False])
    assert defect_cells(boxed, strangeness).tolist() == [4]
    assert defect_cells(strangeness == 1, strangeness).tolist() == [1]
    assert defect_cells(np.zeros(6, np.bool_), strangeness).tolist() == [0, 5, 4, 3, 2, 1]


def test_marked_types_name_the_regions_that_look_like_them(tmp_path: Path) -> None:
    """Spots and stripes are marked; each is named, and a third kind of defect is not."""
    rng = np.random.default_rng(0)

    def frame(seed: int, kind: str) -> MarkedFrame:
        image = render("steel", seed, defects=0).image.copy()
        left, top = (int(each) for each in rng.integers(20, 120, size=2))
        if kind == "spot":
            cv2.circle(image, (left + 20, top + 20), 18, (255, 255, 255), -1)
        elif kind == "stripe":
            image[top : top + 40 : 6, left : left + 40] = 0
        boxes = np.array([[left, top, left + 40, top + 40]], np.float32)
        return MarkedFrame(Frame(image=image, part_id=f"{seed}"), boxes, (kind,))

    kinds = ("spot", "stripe")
    known = [frame(100 + number, kinds[number % 2]) for number in range(12)]
    model = learn(_good(), BANK, marked=known)
    assert model.types is not None and model.types.names == kinds
    bundle = write_bundle(model, tmp_path / "b", name="b")
    assert bundle.manifest.labels == ("anomaly", *kinds)
    assert model_bytes(read_model(bundle)) == model_bytes(model)
    for engine in ["ort", *(["openvino"] if missing("openvino") is None else [])]:
        with Session(bundle, Config(engines=(engine,), threads=1)) as session:
            inspector = Inspector(session)
            for number in range(6):
                found = inspector.inspect(frame(300 + number, kinds[number % 2]).frame)
                assert not found.passed
                assert found.detections[0].type == kinds[number % 2]
            assert inspector.inspect(_frame(310).frame).passed


def test_a_type_counts_the_same_whatever_its_frequency() -> None:
    random = np.random.default_rng(0)
    centres = np.array([[0, 0], [3, 0], [0, 3]])
    cells = [(centres[number] + random.standard_normal((5, 2))).astype(np.float32) for number in (*[0] * 40, 1, 1, 2)]
    types = [np.full(5, number) for number in (*[0] * 40, 1, 1, UNTYPED)]
    head = fit_types(cells, types, ("a", "b", "never"))
    assert head is not None and head.names == ("a", "b")
    middle = head.values(np.array([[1.5, 0]], np.float32))[0]
    assert middle[0] == pytest.approx(middle[1], abs=1.0)
    assert (head.values(centres[:2].astype(np.float32)).argmax(axis=1) == [0, 1]).all()
    assert fit_types(cells[-1:], types[-1:], ("a",)) is None


def _marked() -> np.ndarray:
    image = np.full((320, 320), 60, np.uint8)
    image[100:140, 200:260] = 120
    return image


def test_a_defect_is_pasted_at_other_places_in_the_light_of_the_place() -> None:
    """The defect is twice as bright as its ground, wherever it lies."""
    good = [np.full((320, 320), grey, np.uint8) for grey in (40, 80)]
    frames = paste_defects([(_marked(), np.array([[200, 100, 260, 140]], np.float32))], good, seed=3)
    assert len({tuple(box.tolist()) for _, box in frames}) == COPIES
    for image, box in frames:
        left, top, right, bottom = (int(each) for each in box)
        ground = int(image[0, 0])
        assert ground in (40, 80)
        assert abs(image[top + 3 : bottom - 3, left + 3 : right - 3].mean() / ground - 2) < 0.2
        outside = image.copy()
        outside[max(0, top - 6) : bottom + 6, max(0, left - 6) : right + 6] = ground
        assert (outside == ground).all()


def test_boxes_in_pixels_of_the_frame_mark_the_cells_where_the_defect_was_pasted() -> None:
    wide = np.repeat(_marked()[::2], 2, axis=1)  # 160 high, 640 wide
    marked = MarkedFrame(Frame(image=wide), np.array([[400, 50, 520, 70]]))
    unboxed = MarkedFrame(Frame(image=wide), np.zeros((0, 4)))
    features = collect_marked([marked, unboxed], [np.full((320, 320), 60, np.uint8)])
    assert features is not None and features.pasted is not None
    assert len(features.features.parts) == 2  # those of the customer
    assert len(features.pasted.defects) == COPIES
    cells = features.pasted.defects.sum(axis=1)  # of 16 x 16 pixels; the box has 60 x 40
    assert (cells >= 2).all() and (cells <= 30).all()
    assert collect_marked([unboxed], [wide]).pasted is None  # type: ignore[union-attr]
    assert collect_marked([]) is None
