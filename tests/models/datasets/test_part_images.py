"""Good and bad parts in folders."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside_models.datasets.part_images import has_good, load_part_images, read_mask
from lineside_runtime.errors import DatasetError, InputNotFoundError

IMAGE = np.full((8, 12), 90, np.uint8)


def _write(path: Path, image: np.typing.NDArray[np.uint8] = IMAGE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def _tiles(root: Path) -> Path:
    for name in ("a", "b", "c"):
        _write(root / "MT_Free" / "Imgs" / f"{name}.jpg")
        _write(root / "MT_Free" / "Imgs" / f"{name}.png")
    mask = np.zeros((8, 12), np.uint8)
    mask[2:4, 5:9] = 255
    _write(root / "MT_Crack" / "Imgs" / "d.jpg")
    _write(root / "MT_Crack" / "Imgs" / "d.png", mask)
    rows = [f"MT_Free/Imgs/{name}.jpg,{fold}" for name, fold in (("a", "train"), ("b", "train"), ("c", "val"))]
    (root / "folds.csv").write_text("\n".join(["image,fold", *rows, "MT_Crack/Imgs/d.jpg,val"]) + "\n")
    return root


def test_class_folders_tell_good_from_bad_masks_are_no_photos_and_folds_divide_them(tmp_path: Path) -> None:
    root = _tiles(tmp_path)
    assert has_good(root)
    assert sorted((part.path.name, part.kind, part.good) for part in load_part_images(root).images) == [
        *((f"{name}.jpg", "MT_Free", True) for name in "abc"),
        ("d.jpg", "MT_Crack", False),
    ]
    assert [part.path.name for part in load_part_images(root, "train").images] == ["a.jpg", "b.jpg"]
    val = {part.path.name: part for part in load_part_images(root, "val").images}
    assert set(val) == {"c.jpg", "d.jpg"}
    mask = val["d.jpg"].mask
    assert mask is not None
    assert val["c.jpg"].mask is None
    assert int(read_mask(mask).sum()) == 8


@pytest.mark.parametrize("bad", ["not_ok", "Not-Good", "no good", "n_ok", "ab_normal"])
def test_a_folder_whose_name_denies_that_its_parts_are_good_holds_bad_parts(tmp_path: Path, bad: str) -> None:
    _write(tmp_path / "ok" / "a.png")
    _write(tmp_path / bad / "b.png")
    assert {part.kind: part.good for part in load_part_images(tmp_path).images} == {"ok": True, bad: False}


def test_mvtecs_layout_is_read_with_its_masks(tmp_path: Path) -> None:
    _write(tmp_path / "train" / "good" / "000.png")
    _write(tmp_path / "test" / "good" / "001.png")
    _write(tmp_path / "test" / "scratch" / "002.png")
    _write(tmp_path / "ground_truth" / "scratch" / "002_mask.png", np.full((8, 12), 255, np.uint8))
    assert has_good(tmp_path)
    assert [part.kind for part in load_part_images(tmp_path, "train").images] == ["good"]
    found = {part.kind: part for part in load_part_images(tmp_path, "test").images}
    assert found["good"].good
    assert found["scratch"].mask is not None
    with pytest.raises(DatasetError, match="no fold 'val'"):
        load_part_images(tmp_path, "val")


def test_folders_without_a_good_one_and_damaged_masks_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "scratch" / "a.png")
    assert not has_good(tmp_path)
    with pytest.raises(DatasetError):
        load_part_images(tmp_path)
    with pytest.raises(InputNotFoundError):
        load_part_images(tmp_path / "nowhere")
    (tmp_path / "m.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"m\.png"):
        read_mask(tmp_path / "m.png")
