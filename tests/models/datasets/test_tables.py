"""Tables and lists of a data set that people write by hand: their encoding, paths, blanks and repetitions."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside_models.datasets import load_dataset
from lineside_models.datasets.folds import folds_of, groups_of
from lineside_runtime.errors import DatasetError

HEAD = "image,class,x1,y1,x2,y2\n"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("dent/a.jpg", "hole/b.jpg"):
        (tmp_path / name).parent.mkdir()
        cv2.imwrite(str(tmp_path / name), np.full((40, 60), 128, np.uint8))
    return tmp_path


def test_a_box_whose_image_is_missing_is_refused_and_makes_no_good_part(photos: Path) -> None:
    (photos / "boxes.csv").write_text(HEAD + "dent\\a.jpg,dent,1,1,9,9\n")
    (photos / "folds.csv").write_text("image,fold\ndent/a.jpg,train\n")
    with pytest.raises(DatasetError, match=r"boxes\.csv: line 2: the image .*a\.jpg is missing"):
        load_dataset(photos)


def test_types_in_another_encoding_are_refused_and_not_made_one(photos: Path) -> None:
    rows = "dent/a.jpg,Öl,1,1,9,9\nhole/b.jpg,Äl,1,1,9,9\n"
    (photos / "boxes.csv").write_bytes((HEAD + rows).encode("latin-1"))
    with pytest.raises(DatasetError, match=r"boxes\.csv.*UTF-8"):
        load_dataset(photos)
    (photos / "boxes.csv").write_bytes((HEAD + rows).encode("utf-8-sig"))
    assert load_dataset(photos).labels == ("Äl", "Öl")


def test_blanks_in_tables_make_no_other_type_fold_part_or_image(photos: Path) -> None:
    (photos / "boxes.csv").write_text(
        "image, class, x1, y1, x2, y2\ndent/a.jpg, dent, 1, 1, 9, 9\nhole/b.jpg ,dent ,1,1,9,9\n"
    )
    (photos / "folds.csv").write_text("image, fold, group\n./dent/a.jpg, train, lot 1\nhole/b.jpg , train ,lot 1 \n")
    dataset = load_dataset(photos, "train")
    assert dataset.labels == ("dent",) and folds_of(photos) == ("train",)
    assert [(one.part_id, len(one.boxes), groups_of(photos)(one)) for one in dataset.samples] == [
        ("a", 1, "lot 1"),
        ("b", 1, "lot 1"),
    ]


def test_one_image_written_in_two_ways_is_in_one_fold(photos: Path) -> None:
    (photos / "folds.csv").write_text("image,fold\ndent/a.jpg,train\n./dent/a.jpg,val\n")
    with pytest.raises(DatasetError, match=r"dent/a\.jpg is in two folds"):
        load_dataset(photos, "train")


@pytest.mark.parametrize(("row", "says"), [("a.jpg", "is missing"), ("dent/more/c.jpg", "has no class")])
def test_an_image_of_a_fold_that_no_class_has_is_refused_and_not_dropped(photos: Path, row: str, says: str) -> None:
    (photos / "dent" / "more").mkdir()
    (photos / "dent" / "more" / "c.jpg").write_bytes((photos / "dent" / "a.jpg").read_bytes())
    (photos / "folds.csv").write_text(f"image,fold\nhole/b.jpg,train\n{row},train\n")
    with pytest.raises(DatasetError, match=f"folds.csv lists .*{row}, which {says}"):
        load_dataset(photos, "train")


def test_a_class_whose_images_lie_one_folder_deeper_is_refused(photos: Path) -> None:
    (photos / "hole" / "deep").mkdir()
    (photos / "hole" / "b.jpg").rename(photos / "hole" / "deep" / "b.jpg")
    with pytest.raises(DatasetError, match=r"hole has no image, but hole/deep has"):
        load_dataset(photos)


def test_folders_of_one_name_in_each_class_are_not_made_one_class(photos: Path) -> None:
    for name in ("dent/a.jpg", "hole/b.jpg"):
        (photos / name).parent.joinpath("Imgs").mkdir()
        (photos / name).rename((photos / name).parent / "Imgs" / "x.jpg")
    with pytest.raises(DatasetError, match=r"lie in folders called Imgs.*dent/Imgs"):
        load_dataset(photos)


def test_a_list_that_gives_an_image_two_classes_or_lacks_one_of_a_fold_is_refused(photos: Path) -> None:
    (photos / "dataset.txt").write_text("dent/a.jpg 0\n")
    (photos / "folds.csv").write_text("image,fold\ndent/a.jpg,train\nhole/b.jpg,train\n")
    with pytest.raises(DatasetError, match=r"hole/b\.jpg, which has no class.*dataset\.txt"):
        load_dataset(photos, "train")
    (photos / "dataset.txt").write_text("dent/a.jpg 0\nhole/b.jpg 1\ndent/a.jpg 1\n")
    with pytest.raises(DatasetError, match=r"dent/a\.jpg is listed twice.*0 and 1"):
        load_dataset(photos)


def test_pascal_vocs_lists_share_no_image_and_every_object_has_a_name(tmp_path: Path) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "JPEGImages" / f"{name}.tif"), np.full((40, 60), 128, np.uint8))
        text = f"<annotation><object><name>dent</name>{box}</object></annotation>"
        (tmp_path / "Annotations" / f"{name}.xml").write_text(text)
    lists = tmp_path / "ImageSets" / "Main"
    for fold, stems in (("train", "a\n"), ("val", "b\n"), ("trainval", "a\nb\n")):
        (lists / f"{fold}.txt").write_text(stems)
    assert [len(load_dataset(tmp_path, fold).samples) for fold in ("train", "val", "trainval")] == [1, 1, 2]
    (lists / "val.txt").write_text("b\na\n")
    with pytest.raises(DatasetError, match=r"image a is in two folds.*val\.txt and train\.txt"):
        load_dataset(tmp_path, "val")
    (lists / "val.txt").write_text("b\nc\n")
    with pytest.raises(DatasetError, match=r"c\.xml cannot be read"):
        load_dataset(tmp_path, "val")
    (tmp_path / "Annotations" / "a.xml").write_text(f"<annotation><object>{box}</object></annotation>")
    with pytest.raises(DatasetError, match=r"a\.xml.*a name"):
        load_dataset(tmp_path)
