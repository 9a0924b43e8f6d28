"""YOLO's folders, label files and names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside_models.datasets import load_dataset
from lineside_models.datasets.folds import base_of, folds_of
from lineside_models.datasets.masks import load_masks
from lineside_runtime.errors import DatasetError

BOX = "1 0.5 0.5 0.5 0.25\n"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((40, 60), 128, np.uint8))


def labelled(root: Path, image: str, labels: str, text: str = BOX) -> Path:
    picture(root / image)
    (root / labels).parent.mkdir(parents=True, exist_ok=True)
    (root / labels).write_text(text)
    if not (root / "classes.txt").exists():
        (root / "data.yaml").write_text("names: [dent, hole]\n")
    return root


def test_roboflows_folders_are_read_by_fold_and_their_folders_are_no_classes(tmp_path: Path) -> None:
    for fold, name in (("train", "a"), ("valid", "b")):
        labelled(tmp_path, f"{fold}/images/{name}.jpg", f"{fold}/labels/{name}.txt")
    dataset = load_dataset(tmp_path, "valid")
    assert (dataset.name, dataset.labels, dataset.boxed) == ("yolo", ("dent", "hole"), True)
    assert [(one.part_id, one.labels.tolist()) for one in dataset.samples] == [("b", [1])]
    assert folds_of(tmp_path) == ("train", "valid")
    (tmp_path / "folds.csv").write_text("image,fold\ntrain/images/a.jpg,one\nvalid/images/b.jpg,two\n")
    assert [one.part_id for one in load_dataset(tmp_path, "one").samples] == ["a"]
    assert base_of(tmp_path) == tmp_path


def test_a_table_of_folds_comes_before_folders_and_an_image_beside_these_is_in_no_fold(tmp_path: Path) -> None:
    labelled(tmp_path, "images/lot1/a.jpg", "labels/lot1/a.txt")
    labelled(tmp_path, "images/b.jpg", "labels/b.txt")
    with pytest.raises(DatasetError, match=r"b\.jpg is in no fold.*lot1"):
        load_dataset(tmp_path)
    (tmp_path / "folds.csv").write_text("image,fold\nlot1/a.jpg,train\nb.jpg,val\n")
    assert [one.part_id for one in load_dataset(tmp_path, "train").samples] == ["a"]
    assert len(load_dataset(tmp_path).samples) == 2


@pytest.mark.parametrize(("image", "text"), [("images/a.jpg", "labels/A.txt"), ("images/train/a.jpg", "labels/a.txt")])
def test_boxes_whose_image_has_another_name_or_folder_are_refused(tmp_path: Path, image: str, text: str) -> None:
    root = labelled(tmp_path, image, text)
    with pytest.raises(DatasetError, match=f"the image of .*{text} is missing"):
        load_dataset(root)
    (root / text).write_text("\n")
    assert [len(one.labels) for one in load_dataset(root).samples] == [0]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (b"dent\n\nhole\n", "line 2"),
        (b"dent\nhole\ndent\n", "line 3.*got dent"),
        (b"\n", "line 1"),
        ("dent\nhole\n".encode("utf-16"), "UTF-8"),
        ("B\u00f6se\nhole\n".encode("latin-1"), "UTF-8"),
    ],
)
def test_names_that_would_shift_numbers_or_cannot_be_read_are_refused(tmp_path: Path, names: bytes, says: str) -> None:
    (tmp_path / "classes.txt").write_bytes(names)
    root = labelled(tmp_path, "images/a.jpg", "labels/a.txt")
    with pytest.raises(DatasetError, match=says):
        load_dataset(root)
    picture(tmp_path / "masks" / "a.png")
    with pytest.raises(DatasetError, match=says):
        load_masks(root, "all")


def test_a_byte_order_mark_is_no_part_of_a_name_and_two_lists_of_names_must_agree(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfdent\r\nhole\r\n\r\n")
    root = labelled(tmp_path, "images/a.jpg", "labels/a.txt")
    assert load_dataset(root).labels == ("dent", "hole")
    (root / "data.yaml").write_text("names: [hole, dent]\n")
    with pytest.raises(DatasetError, match=r"other classes than data\.yaml.*hole, dent.*dent, hole"):
        load_dataset(root)
