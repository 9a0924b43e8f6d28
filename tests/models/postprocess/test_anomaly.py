"""From maps of distances to regions and scores."""

from __future__ import annotations

import numpy as np
import pytest

from lineside_models.postprocess import decode, heat_map, nearest, select
from lineside_models.preprocess import Letterbox
from lineside_runtime.bundle import Postprocess
from lineside_runtime.errors import BadInputFormatError, ConfigError

HOW = Postprocess(name="anomaly_maps", params={"maps": ["fine", "coarse"], "calibration": [[1.0, -6.0]]})
BOX = Letterbox(scale_x=0.5, scale_y=1.0, width=320, height=160)  # 160 × 160 in the input, cells of 16 and of 32
LABELS = ("anomaly",)


def _maps(frames: int = 1) -> dict[str, np.typing.NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return {
        "fine": random.normal(-4, 0.1, (frames, 1, 10, 10)).astype(np.float32),
        "coarse": random.normal(-4, 0.1, (frames, 1, 5, 5)).astype(np.float32),
    }


def test_a_region_that_stands_out_at_either_scale_is_boxed_and_outlined_where_it_is() -> None:
    maps = _maps()
    maps["fine"][0, 0, 4:7, 2:4] = 14
    (found,) = decode(maps, HOW, [BOX])
    (defect,) = select(found, HOW, LABELS)
    assert defect.type == "anomaly"
    assert defect.box == (64, 64, 128, 112)
    assert defect.score > 0.95
    assert len(defect.outline) >= 4
    maps = _maps()
    maps["coarse"][0, 0, 0, 4] = 16
    (defect,) = select(decode(maps, HOW, [BOX])[0], HOW, LABELS)
    assert defect.box[0] > 200 and defect.box[3] < 80


def test_the_strongest_region_has_the_frames_score_from_the_greatest_values_wherever_they_lie() -> None:
    maps = _maps()
    maps["fine"][0, 0, 0, 0] = 4
    maps["coarse"][0, 0, 4, 4] = 4
    (found,) = decode(maps, HOW, [BOX])
    assert float(found.scores[0]) == pytest.approx(1 / (1 + np.exp(-(8 - 6))), abs=1e-4)


def test_a_good_frame_passes_and_says_how_near_it_came() -> None:
    (found,) = decode(_maps(), HOW, [BOX])
    assert len(found) == 1
    assert select(found, HOW, LABELS) == ()
    near = nearest(found.scores, np.array([0.5]), found.scores < 0.5)
    assert near == pytest.approx(float(found.scores[0]) / 0.5, rel=1e-5)
    assert select(found, HOW, LABELS, threshold=0.0) != ()


def test_frames_of_a_batch_are_told_apart() -> None:
    maps = _maps(frames=3)
    maps["fine"][1, 0, 4:7, 2:4] = 14
    found = decode(maps, HOW, [BOX] * 3)
    assert [bool(select(one, HOW, LABELS)) for one in found] == [False, True, False]


def test_the_heat_map_has_the_frames_pixels_and_is_hot_where_the_region_is() -> None:
    maps = _maps()
    maps["fine"][0, 0, 4:7, 2:4] = 14
    heat = heat_map(maps, HOW.params, BOX)
    assert heat.shape == (160, 320)
    assert heat[88, 96] > 0.9
    assert float(np.median(heat)) < 1e-3


def test_a_missing_map_one_without_numbers_and_wrong_parameters_are_errors_and_no_pass() -> None:
    maps = _maps()
    maps["fine"][0, 0, 3, 3] = np.nan
    with pytest.raises(BadInputFormatError, match="fine"):
        decode(maps, HOW, [BOX])
    with pytest.raises(BadInputFormatError, match="fine"):
        heat_map(maps, HOW.params, BOX)
    with pytest.raises(BadInputFormatError, match="map of distances"):
        decode({"fine": _maps()["fine"]}, HOW, [BOX])
    for params in ({"maps": [], "calibration": [[1, 0]]}, {"maps": ["a"]}, {"maps": ["a"], "calibration": [[-1, 0]]}):
        with pytest.raises(ConfigError, match=r"postprocess\.params"):
            decode(_maps(), Postprocess(name="anomaly_maps", params=params), [BOX])
