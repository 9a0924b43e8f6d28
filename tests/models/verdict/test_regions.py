from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from lineside_models.verdict.regions import RASTER_SIDE, Region, RegionMasks
from lineside_runtime.errors import ConfigError, InputNotFoundError

NAMES = ("dent", "hole")
LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
SIZE = (100, 200)


def _png(image: npt.NDArray[Any]) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _shares(areas: RegionMasks, *boxes: tuple[float, ...], label: int = 0) -> list[float]:
    found = areas.shares(np.array(boxes, np.float32), np.full(len(boxes), label, np.int64))
    return [round(float(share), 3) for share in found]


def test_only_what_lies_in_a_region_to_inspect_counts() -> None:
    areas = RegionMasks([Region(kind="inspect", polygon=LEFT)], NAMES, SIZE)
    shares = _shares(areas, (0, 0, 100, 100), (100, 0, 200, 100), (80, 10, 120, 30))
    assert shares == [1.0, pytest.approx(0, abs=0.01), pytest.approx(0.5, abs=0.03)]  # an edge is right to a pixel


def test_what_is_ignored_is_taken_away_from_what_is_inspected() -> None:
    hole = Region(kind="ignore", polygon=((50, 0), (100, 0), (100, 100), (50, 100)), units="px")
    areas = RegionMasks([hole, Region(kind="inspect", polygon=LEFT)], NAMES, SIZE)
    assert _shares(areas, (0, 0, 48, 100), (53, 10, 98, 90), (110, 10, 150, 90)) == [1.0, 0.0, 0.0]


def test_a_region_may_hold_for_some_types_only() -> None:
    areas = RegionMasks([Region(kind="ignore", polygon=LEFT, types=("hole",))], NAMES, SIZE)
    assert _shares(areas, (10, 10, 60, 60), label=0) == [1.0]
    assert _shares(areas, (10, 10, 60, 60), label=1) == [0.0]


def test_a_polygon_and_the_mask_that_it_fills_are_the_same() -> None:
    corners = ((20.0, 10.0), (180.0, 30.0), (140.0, 90.0), (60.0, 70.0))
    drawn = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(drawn, [np.array(corners, np.int32)], 255)
    by_mask = RegionMasks([Region(kind="inspect", mask=_png(drawn))], NAMES, SIZE)
    by_polygon = RegionMasks([Region(kind="inspect", polygon=corners, units="px")], NAMES, SIZE)
    random = np.random.default_rng(1)
    low = random.uniform(0, (150, 60), (200, 2))
    boxes = np.concatenate([low, low + random.uniform(10, 40, (200, 2))], axis=1).astype(np.float32)
    labels = np.zeros(200, np.int64)
    assert np.abs(by_mask.shares(boxes, labels) - by_polygon.shares(boxes, labels)).max() < 0.1


def test_a_polygon_that_reaches_far_out_of_the_frame_keeps_its_edges() -> None:
    far = Region(kind="inspect", polygon=((0, 0), (1e5, 0), (0, 100)), units="px")
    areas = RegionMasks([far], ("a",), (100, 120))
    assert _shares(areas, (60, 90, 110, 99)) == [1.0]


def test_the_share_of_a_box_is_that_of_its_pixels() -> None:
    """Counted pixel by pixel."""
    mask = (np.random.default_rng(2).random(SIZE) > 0.4).astype(np.uint8) * 255
    areas = RegionMasks([Region(kind="inspect", mask=_png(mask))], NAMES, SIZE)
    box = (13, 7, 90, 61)
    assert _shares(areas, box) == [round(float((mask[7:61, 13:90] > 127).mean()), 3)]


def test_frames_larger_than_the_raster_are_looked_up_to_a_cell() -> None:
    size = (3000, 4000)
    areas = RegionMasks([Region(kind="inspect", polygon=LEFT)], NAMES, size)
    cell = 4000 / RASTER_SIDE
    (share,) = _shares(areas, (1900, 100, 2100, 300))
    assert share == pytest.approx(0.5, abs=cell / 200 + 0.01)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "inspect"}, "one of polygon and mask"),
        ({"kind": "inspect", "polygon": LEFT, "mask": _png(np.full((2, 2), 255, np.uint8))}, "one of polygon and mask"),
        ({"kind": "inspect", "polygon": LEFT[:2]}, "three corners"),
        ({"kind": "inspect", "polygon": ((0, 0), (200, 0), (200, 100))}, "0 to 1 in shares"),
        ({"kind": "ignore", "polygon": ((0, 0), (-1, 0), (200, 100)), "units": "px"}, "0 on"),
        ({"kind": "ignore", "polygon": ((0, 0), (float("nan"), 0), (1, 1))}, "0 to 1"),
        ({"kind": "ignore", "mask": b"GIF89a"}, "not a PNG"),
        ({"kind": "ignore", "mask": _png(np.zeros((4, 4), np.uint8))}, "no bright pixel"),
        ({"kind": "ignore", "mask": _png(np.full((4, 4), 255, np.uint8))[:-20]}, "damaged"),
    ],
)
def test_what_is_no_region_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Region(**given)


def test_regions_outside_the_frame_or_that_leave_nothing_to_inspect_are_refused() -> None:
    far = Region(kind="ignore", polygon=((500, 500), (600, 500), (600, 600)), units="px")
    whole = Region(kind="ignore", polygon=((0, 0), (1, 0), (1, 1), (0, 1)), types=("hole",))
    for region, words in ((far, "outside the frame"), (whole, "nothing to inspect for 'hole'")):
        with pytest.raises(ConfigError, match=words):
            RegionMasks([region], NAMES, SIZE)


def test_a_painted_file_is_a_region_whose_mask_travels_in_toml_as_base64(tmp_path: Path) -> None:
    mask = _png(np.full((8, 8), 255, np.uint8))
    (tmp_path / "mask.png").write_bytes(mask)
    region = Region.from_png(tmp_path / "mask.png", "ignore", types=["dent"])
    assert (region.kind, region.types) == ("ignore", ("dent",))
    text = f'kind = "ignore"\nmask = "{base64.b64encode(mask).decode()}"\n'
    assert msgspec.toml.decode(text.encode(), type=Region).mask == mask
    with pytest.raises(InputNotFoundError):
        Region.from_png(tmp_path / "nowhere.png", "ignore")
    (tmp_path / "no.png").write_bytes(b"GIF89a")
    with pytest.raises(ConfigError, match="not a PNG"):
        Region.from_png(tmp_path / "no.png", "ignore")
