"""Which image of a good part each image of a data set is compared with."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside_models.datasets import load_dataset
from lineside_runtime.errors import DatasetError

BOARD = np.kron(np.indices((8, 8)).sum(0) % 2 * 255, np.ones((8, 8))).astype(np.uint8)


def write(path: Path, image: np.ndarray = BOARD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder with `boxes.csv` of two images."""
    rows = ["image,x1,y1,x2,y2,class"]
    for name in ("a.png", "b.png"):
        write(tmp_path / name)
        rows.append(f"{name},8,8,24,24,dent")
    (tmp_path / "boxes.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def references(root: Path, *, with_clean: bool = False) -> dict[str, str]:
    samples = load_dataset(root, with_clean=with_clean, references=True).samples
    return {one.path.name: one.reference.relative_to(root).as_posix() for one in samples if one.reference is not None}


def test_an_image_has_its_own_reference_or_the_golden_one(parts: Path) -> None:
    write(parts / "golden.jpg")
    write(parts / "references" / "b.jpg")
    assert references(parts) == {"a.png": "golden.jpg", "b.png": "references/b.jpg"}
    assert all(one.reference is None for one in load_dataset(parts).samples)


def test_an_image_without_a_reference_is_an_error_that_says_where_to_put_it(parts: Path) -> None:
    write(parts / "references" / "b.png")
    with pytest.raises(DatasetError, match=r"a\.png has no reference.*references/a\.png or golden\.png"):
        load_dataset(parts, references=True)


def test_deeppcb_brings_a_template_of_each_board_which_is_its_own_reference(tmp_path: Path) -> None:
    boards = tmp_path / "PCBData" / "group1" / "1"
    write(boards / "7_test.jpg")
    write(boards / "7_temp.jpg")
    (boards.parent / "1_not").mkdir()
    (boards.parent / "1_not" / "7.txt").write_text("8 8 24 24 1\n")
    template = "PCBData/group1/1/7_temp.jpg"
    assert references(tmp_path, with_clean=True) == {"7_test.jpg": template, "7_temp.jpg": template}


def test_an_image_whose_reference_shows_nothing_is_left_out(parts: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(parts / "golden.png")
    write(parts / "references" / "b.png", np.full_like(BOARD, 255))
    with caplog.at_level(logging.WARNING, "lineside.datasets"):
        assert set(references(parts)) == {"a.png"}
    assert "references/b.png shows nothing" in caplog.text
    (parts / "golden.png").unlink()
    write(parts / "golden.png", np.zeros_like(BOARD))
    with pytest.raises(DatasetError, match="no reference of"):
        load_dataset(parts, references=True)
