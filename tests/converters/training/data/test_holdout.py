"""Division of a data set: folds of other names, and copies of one picture."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.data.holdout import read_divided
from lineside_runtime.errors import DatasetError


def parts(root: Path, fold: str = "", *, first: int = 0) -> Path:
    for number in range(8):
        path = root / fold / ("good", "scratch")[number % 2] / f"{first + number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(first + number).integers(0, 255, (20, 20), np.uint8))
    return root


def settings(root: Path, out: Path) -> ClassifierConfig:
    return ClassifierConfig(data=(root,), out=out, held_share=0.25)


@pytest.mark.parametrize("name", ["Train", "training", "trainval"])
def test_folds_of_which_none_is_called_train_are_not_all_trained_on(tmp_path: Path, name: str) -> None:
    root = parts(parts(tmp_path / "parts", name), "Val", first=50)
    with pytest.raises(DatasetError, match=f"none is called train.*got Val, {name}|none.*got {name}, Val"):
        read_divided(root, settings(root, tmp_path / "run"))
    (root / name).rename(root / "train")
    assert {one.path.parent.parent.name for one in read_divided(root, settings(root, tmp_path / "run")).rest} == {
        "train"
    }


def test_a_picture_with_two_types_is_refused(tmp_path: Path) -> None:
    root = parts(tmp_path / "parts")
    shutil.copy(root / "good" / "0.png", root / "scratch" / "99.png")
    with pytest.raises(DatasetError, match=r"(0|99)\.png and .*(99|0)\.png are one picture, and show different types"):
        read_divided(root, settings(root, tmp_path / "run"))


def test_a_picture_to_learn_from_and_to_judge_on_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = parts(parts(tmp_path / "parts", "train"), "val", first=50)
    with caplog.at_level(logging.WARNING, "lineside.training"):
        learned = read_divided(root, settings(root, tmp_path / "run")).rest[0].path
        assert not caplog.records
        shutil.copy(learned, root / "val" / learned.parent.name / "copy.png")
        read_divided(root, settings(root, tmp_path / "run"))
    assert "1 picture is both learned from and judged on" in caplog.text and "copy.png" in caplog.text
    caplog.clear()
    (root / "val").rename(tmp_path / "away")
    read_divided(root, settings(root, tmp_path / "run"))
    assert not caplog.records
