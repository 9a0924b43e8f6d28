from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lineside_models.frame import Frame
from lineside_models.vision.images import frames, read_image
from lineside_runtime.errors import BadInputFormatError, InputNotFoundError

GREY = np.full((20, 30), 7, np.uint8)
COLOUR = np.dstack([GREY, GREY + 1, GREY + 2])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, image in (("b.png", COLOUR), ("a.PNG", GREY), ("c.bmp", COLOUR)):
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "deeper").mkdir()
    cv2.imwrite(str(tmp_path / "deeper" / "d.png"), GREY)
    return tmp_path


def test_a_folder_is_its_images_sorted_by_name(folder: Path) -> None:
    found = list(frames(folder))
    assert [frame.part_id for frame in found] == ["a", "b", "c"]
    assert [frame.sequence for frame in found] == [0, 1, 2]
    assert found[0].source == str(folder / "a.PNG")
    assert found[0].image.shape == (20, 30)
    np.testing.assert_array_equal(found[1].image, COLOUR)
    assert all(frame.captured_at_ns > 0 for frame in found)


def test_a_path_is_one_image_and_files_are_read_only_when_their_turn_comes(folder: Path) -> None:
    for given in (folder / "b.png", str(folder / "b.png")):
        (frame,) = frames(given)
        assert frame.part_id == "b"
    source = frames(folder)
    next(source)
    (folder / "b.png").unlink()
    with pytest.raises(InputNotFoundError, match=r"b\.png"):
        next(source)


def test_arrays_and_frames_and_lists_of_everything(folder: Path) -> None:
    frame = Frame(image=GREY, part_id="mine", sequence=99)
    given: Any = [GREY, COLOUR, frame, folder / "b.png", str(folder / "c.bmp"), [GREY]]  # a list in the list too
    found = list(frames(given))
    assert [one.part_id for one in found] == ["", "", "mine", "b", "c", ""]
    assert found[2] is frame
    assert len(list(frames(np.stack([COLOUR, COLOUR])))) == 2
    assert list(frames([])) == []


@pytest.mark.parametrize("wrong", [None, 5, 1.5, [None], np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2)), np.zeros(3)])
def test_what_is_no_image_says_what_is(wrong: Any) -> None:
    with pytest.raises(BadInputFormatError) as caught:
        list(frames(wrong))
    assert "(H, W, 3)" in str(caught.value.expected)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError):
        list(frames(tmp_path / "none.png"))
    with pytest.raises(InputNotFoundError, match="no image in"):
        list(frames(tmp_path))
    for content in (b"", b"text"):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(BadInputFormatError):
            read_image(tmp_path / "a.png")


def test_a_file_that_the_system_can_not_read_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("/proc/self/mem")  # reading it is an input/output error, as on a failing drive
    with pytest.raises(InputNotFoundError, match="Input/output error"):
        read_image(tmp_path / "a.png")
