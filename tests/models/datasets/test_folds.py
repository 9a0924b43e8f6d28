"""Data sets with a table of boxes or with masks; folds that are there, and folds that are drawn."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside_models.datasets import load_dataset
from lineside_models.datasets.base import Sample
from lineside_models.datasets.folds import divide, folds_csv, folds_of, groups_of, has_fold
from lineside_models.datasets.masks import boxes_of, load_masks
from lineside_models.datasets.part_images import read_mask
from lineside_runtime.errors import DatasetError, InputNotFoundError


def photo(path: Path, side: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((side, side), 90, np.uint8))
    return path


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Tiles in folders by class, as magnetic-tile has them: two chipped, one cracked without a box, one good."""
    for name in ("T_Chip/Imgs/a0", "T_Chip/Imgs/a1", "T_Crack/Imgs/c0", "T_Crack/Imgs/c1", "T_Free/Imgs/f0"):
        photo(tmp_path / f"{name}.jpg")
        mask = np.zeros((20, 20), np.uint8)
        if "Free" not in name:
            mask[2:8, 3:12] = 255
        cv2.imwrite(str(tmp_path / f"{name}.png"), mask)
    (tmp_path / "boxes.csv").write_text(
        "image,class,x1,y1,x2,y2\nT_Chip/Imgs/a0.jpg,chip,3,2,12,8\nT_Chip/Imgs/a1.jpg,chip,3,2,12,8\n"
        "T_Chip/Imgs/a1.jpg,chip,0,0,2,2\nT_Crack/Imgs/c0.jpg,crack,3,2,12,8\n"
    )
    (tmp_path / "folds.csv").write_text(
        "image,class,tile_group,fold\nT_Chip/Imgs/a0.jpg,T_Chip,1,train\nT_Chip/Imgs/a1.jpg,T_Chip,1,train\n"
        "T_Crack/Imgs/c0.jpg,T_Crack,2,val\nT_Crack/Imgs/c1.jpg,T_Crack,2,val\nT_Free/Imgs/f0.jpg,T_Free,3,train\n"
    )
    return tmp_path


def test_a_table_of_boxes_gives_boxes_good_images_and_leaves_out_masks_and_what_nobody_placed(tiles: Path) -> None:
    dataset = load_dataset(tiles, "train")
    assert (dataset.name, dataset.labels) == ("boxes", ("chip", "crack"))
    assert [(s.part_id, len(s.boxes)) for s in dataset.samples] == [("a0", 1), ("a1", 2), ("f0", 0)]
    np.testing.assert_array_equal(dataset.samples[1].boxes, [[3, 2, 12, 8], [0, 0, 2, 2]])
    assert [s.part_id for s in load_dataset(tiles, "val").samples] == ["c0"]
    (tiles / "folds.csv").unlink()
    assert [s.path.suffix for s in load_dataset(tiles).samples] == [".jpg"] * 4


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("image,class,x1,y1,x2\n", "line 1"),
        ("image,class,x1,y1,x2,y2\na.jpg,chip,1,1,b,4\n", "line 2"),
        ("image,class,x1,y1,x2,y2\na.jpg,chip,5,1,3,4\n", "line 2"),
        ("image,class,x1,y1,x2,y2\n../a.jpg,chip,1,1,3,4\n", "line 2"),
        ("image,class,x1,y1,x2,y2\n", "no box"),
    ],
)
def test_a_damaged_table_is_named_with_its_line(tmp_path: Path, table: str, says: str) -> None:
    (tmp_path / "boxes.csv").write_text(table)
    with pytest.raises(DatasetError, match=says):
        load_dataset(tmp_path)


def test_masks_beside_photos_have_their_folders_type_by_its_name_in_the_table(tiles: Path) -> None:
    found = load_masks(tiles, "train")
    assert found.labels == ("chip", "crack")
    assert [s.labels.tolist() for s in found.samples] == [[0], [0], []]
    assert np.unique(load_masks(tiles, "val").mask_of(load_masks(tiles, "val").samples[0])).tolist() == [0, 2]
    (tiles / "boxes.csv").unlink()
    assert load_masks(tiles, "train").labels == ("T_Chip", "T_Crack")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    (tmp_path / "masks").mkdir()
    for number in range(2):
        photo(tmp_path / "images" / f"{number}.jpg")
        cv2.imwrite(str(tmp_path / "masks" / f"{number}.png"), np.full((20, 20), 2 * number, np.uint8))
    (tmp_path / "classes.txt").write_text("dent\nflash\n")
    return tmp_path


def test_pairs_hold_the_numbers_of_their_types_and_boxes_are_their_pieces(pairs: Path) -> None:
    found = load_masks(pairs, "all")
    assert [s.labels.tolist() for s in found.samples] == [[], [1]]
    assert np.unique(found.mask_of(found.samples[1])).tolist() == [2]
    mask = np.zeros((20, 20), np.uint8)
    mask[2:8, 3:12], mask[12:18, 10:15], mask[19, 0] = 1, 2, 1
    cv2.imwrite(str(pairs / "masks" / "1.png"), mask)
    dataset = load_dataset(pairs)
    assert (dataset.name, dataset.labels) == ("masks", ("dent", "flash"))
    np.testing.assert_array_equal(dataset.samples[1].boxes, [[3, 2, 12, 8], [10, 12, 15, 18]])
    assert dataset.samples[1].labels.tolist() == [0, 1] and not len(dataset.samples[0].boxes)
    (pairs / "classes.txt").unlink()  # every bright pixel is a defect
    cv2.imwrite(str(pairs / "masks" / "1.png"), np.full((20, 20), 255, np.uint8))
    found = load_masks(pairs, "all")
    assert found.labels == ("defect",)
    assert [int(found.mask_of(s).max()) for s in found.samples] == [0, 1]


def test_a_mask_that_is_missing_or_shows_a_nameless_type_is_named(pairs: Path) -> None:
    (pairs / "classes.txt").write_text("dent\n")
    with pytest.raises(DatasetError, match=r"1\.png.*type 2"):
        load_masks(pairs, "all")
    (pairs / "masks" / "1.png").unlink()
    with pytest.raises(DatasetError, match=r"1\.png"):
        load_masks(pairs, "all")
    with pytest.raises(InputNotFoundError):
        load_masks(pairs / "nowhere", "all")


@pytest.mark.parametrize(("layout", "name"), [("pairs", "masks/1.png"), ("tiles", "T_Chip/Imgs/a1.png")])
def test_a_mask_of_ones_is_refused_and_no_good_part(layout: str, name: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(layout)
    (root / "classes.txt").unlink(missing_ok=True)
    mask = np.zeros((20, 20), np.uint8)
    mask[2:8, 3:12] = 1
    cv2.imwrite(str(root / name), mask)
    with pytest.raises(DatasetError, match=r"1\.png shows nothing.*0 to 1.*255"):
        load_masks(root, "all")
    with pytest.raises(DatasetError, match="shows nothing"):
        read_mask(root / name)


def test_a_mask_of_another_size_than_its_image_is_refused(pairs: Path) -> None:
    cv2.imwrite(str(pairs / "masks" / "1.png"), np.full((40, 20), 2, np.uint8))
    with pytest.raises(DatasetError, match=r"another size than 1\.jpg.*\(20, 20\).*\(20, 40\)"):
        load_dataset(pairs)


def test_a_defect_without_a_mask_or_of_specks_alone_is_no_good_part(
    tiles: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mask = np.zeros((20, 20), np.uint8)
    cv2.imwrite(str(tiles / "T_Chip" / "Imgs" / "a0.png"), mask)
    mask[2:4, 3:5] = 255
    cv2.imwrite(str(tiles / "T_Chip" / "Imgs" / "a1.png"), mask)
    with caplog.at_level(logging.WARNING, "lineside.datasets"):
        found = load_masks(tiles, "train")
        assert [(s.part_id, s.labels.tolist()) for s in found.samples] == [("a1", [0]), ("f0", [])]
        assert [s.part_id for s in boxes_of(found).samples] == ["f0"]
    assert "1 image left out: empty masks" in caplog.text and "less than 12 pixels" in caplog.text


def coco(root: Path, count: int = 40) -> Path:
    (root / "annotations").mkdir()
    images = [{"id": n, "file_name": f"p{n // 2}-{n % 2}.jpg"} for n in range(count)]
    for image in images:
        photo(root / "images" / str(image["file_name"]))
    content = {
        "images": images,
        "categories": [{"id": 1, "name": "dent"}, {"id": 2, "name": "hole"}],
        "annotations": [{"image_id": n, "category_id": 1 + n // 2 % 2, "bbox": [1, 1, 9, 9]} for n in range(count)],
    }
    (root / "annotations" / "instances_default.json").write_text(json.dumps(content))
    return root


def test_folds_are_found_where_the_layout_has_them(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert folds_of(tiles) == ("train", "val") and has_fold(tiles, "train") and not has_fold(tiles, "test")
    one_file = coco(tmp_path_factory.mktemp("coco"))
    assert folds_of(one_file) == ("default",) and not has_fold(one_file, "train")
    (one_file / "annotations" / "instances_default.json").rename(one_file / "annotations" / "instances_train2017.json")
    assert has_fold(one_file, "train")
    yolo = tmp_path_factory.mktemp("yolo")
    photo(yolo / "images" / "train" / "a.jpg")
    (yolo / "labels").mkdir()
    assert folds_of(yolo) == ("train",)


def test_a_part_is_what_the_table_the_pattern_or_the_files_name_says(tiles: Path, tmp_path: Path) -> None:
    samples = load_dataset(tiles).samples
    assert [groups_of(tiles)(s) for s in samples] == ["1", "1", "2", "3"]
    assert [groups_of(tiles, r"T_(\w+)/")(s) for s in samples] == ["Chip", "Chip", "Crack", "Free"]
    (tiles / "folds.csv").unlink()
    assert groups_of(tiles)(samples[0]) == "a0"
    with pytest.raises(DatasetError, match="group"):
        groups_of(tiles, "(")
    with pytest.raises(DatasetError, match=r"a0\.jpg"):
        groups_of(tiles, "nothing like it")(samples[0])


def test_a_drawn_fold_divides_no_part_takes_each_type_and_is_read_back(tmp_path: Path) -> None:
    root = coco(tmp_path)
    samples = load_dataset(root).samples
    group_of = groups_of(root, r"(p\d+)-")
    val = divide(samples, group_of, share=0.2, seed=3)
    assert len(val) == pytest.approx(8, abs=2)
    assert not {group_of(s) for s in samples if s.path in val} & {group_of(s) for s in samples if s.path not in val}
    assert {int(s.labels[0]) for s in samples if s.path in val} == {0, 1}
    assert val == divide(samples[::-1], group_of, share=0.2, seed=3) != divide(samples, group_of, share=0.2, seed=4)
    fold_of = {s.path: "val" if s.path in val else "train" for s in samples}
    (root / "folds.csv").write_text(folds_csv(samples, fold_of, root, group_of))
    assert {s.path for s in load_dataset(root, "val").samples} == val
    rows = list(csv.DictReader(io.StringIO((root / "folds.csv").read_text())))
    assert {row["group"] for row in rows} == {f"p{n}" for n in range(20)}
    assert groups_of(root)(samples[0]) == "p0"
    with pytest.raises(DatasetError, match="no fold 'test'"):
        load_dataset(root, "test")


def test_a_folds_table_of_bare_names_names_the_parts_too(tmp_path: Path) -> None:
    image = tmp_path / "images" / "a.png"  # as `lineside relabel import` lists it
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text("{}")
    (tmp_path / "folds.csv").write_text("image,fold,group\na.png,train,lot-7\n")
    none = np.empty((0, 4), np.float32), np.empty(0, np.int64)
    assert groups_of(tmp_path)(Sample(image, *none, part_id="a")) == "lot-7"


@pytest.mark.parametrize("fold", ["train", "val", "all"])
def test_an_image_that_two_coco_folds_list_is_refused_with_its_name(tmp_path: Path, fold: str) -> None:
    notes = coco(tmp_path, 4) / "annotations"
    content = json.loads((notes / "instances_default.json").read_text())
    (notes / "instances_default.json").rename(notes / "instances_train.json")
    other = {**content, "images": content["images"][3:], "annotations": content["annotations"][3:]}
    (notes / "instances_val.json").write_text(json.dumps(other))
    with pytest.raises(DatasetError, match=r"p1-1\.jpg is in two folds.*instances_train\.json and instances_val\.json"):
        load_dataset(tmp_path, fold)


def test_an_image_that_folds_csv_lists_in_two_folds_is_refused_and_one_listed_twice_in_one_is_not(tiles: Path) -> None:
    rows = (tiles / "folds.csv").read_text()
    (tiles / "folds.csv").write_text(f"{rows}T_Chip/Imgs/a0.jpg,T_Chip,1,train\n")
    assert len(load_dataset(tiles, "train").samples) == 3
    (tiles / "folds.csv").write_text(f"{rows}T_Chip/Imgs/a0.jpg,T_Chip,1,val\n")
    with pytest.raises(DatasetError, match=r"line 7: the image T_Chip/Imgs/a0\.jpg is in two folds.*train and val"):
        load_dataset(tiles, "train")


def test_parts_with_images_in_two_folds_are_warned_of(tiles: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = (tiles / "folds.csv").read_text()
    with caplog.at_level(logging.WARNING, "lineside.datasets"):
        load_dataset(tiles, "train")
        assert "more than one fold" not in caplog.text
        (tiles / "folds.csv").write_text(rows.replace("T_Free,3,train", "T_Free,2,train"))
        load_dataset(tiles, "train")
    assert "the images of 1 part are in more than one fold, such as those of 2 in train and val" in caplog.text
