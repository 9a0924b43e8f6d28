"""Which images are kept, and which are deleted."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from lineside_agent.config import StoreConfig
from lineside_agent.storage.images import ImageArchive, wanted
from lineside_link.age_limit import LEAST
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)


def row(
    sequence: int = 1,
    verdict: Literal["pass", "reject", "fault"] = "pass",
    near_miss: float = 0.0,
    source: str = "cam",
    unsure: bool = False,
) -> ResultRow:
    return ResultRow(
        seq=0, part_id="p", source=source, sequence=sequence, verdict=verdict, near_miss=near_miss, unsure=unsure
    )


def save(archive: ImageArchive, *sequences: int, days_ago: float = 0.0) -> list[Path]:
    made = []
    for sequence in sequences:
        path = archive.save(Frame(IMAGE, source="cam", sequence=sequence), row(sequence))
        assert path is not None
        seconds = time.time() - 86400 * days_ago + sequence
        os.utime(path, (seconds, seconds))
        made.append(path)
    return made


@pytest.mark.parametrize(
    ("rules", "record", "kept"),
    [
        (StoreConfig(), row(verdict="reject"), True),
        (StoreConfig(), row(), False),
        (StoreConfig(keep_images="none"), row(verdict="reject"), False),
        (StoreConfig(keep_images="bad"), row(verdict="reject"), True),
        (StoreConfig(keep_images="bad"), row(verdict="fault"), True),
        (StoreConfig(keep_images="bad"), row(), False),
        (StoreConfig(keep_images="all"), row(), True),
        (StoreConfig(keep_unsure_from=0.8), row(near_miss=0.81), True),
        (StoreConfig(keep_unsure_from=0.8), row(near_miss=0.79), False),
        (StoreConfig(keep_unsure_from=0.8), row(verdict="reject", unsure=True), True),
        (StoreConfig(keep_images="unsure"), row(verdict="reject", unsure=True), True),
        (StoreConfig(keep_images="unsure"), row(verdict="reject"), False),
        (StoreConfig(keep_images="bad"), row(verdict="reject", unsure=True), True),
        (StoreConfig(), row(verdict="reject", unsure=True), True),
        (StoreConfig(keep_images="none"), row(verdict="reject", unsure=True), False),
        (StoreConfig(keep_good_every=10), row(20), True),
        (StoreConfig(keep_good_every=10), row(21), False),
        (StoreConfig(keep_images="none", keep_good_every=10), row(20, "reject"), False),
    ],
)
def test_rules_choose_what_is_kept(rules: StoreConfig, record: ResultRow, kept: bool) -> None:
    assert wanted(record, rules) is kept


@pytest.mark.parametrize(("keep", "kept"), [("bad", [False, True, True]), ("all", [True] * 3)])
def test_a_fault_whose_frame_shows_nothing_takes_no_room_from_rejects(
    tmp_path: Path, keep: Literal["bad", "all"], kept: list[bool]
) -> None:
    archive = ImageArchive(tmp_path, StoreConfig(keep_images=keep))
    dark = Frame(np.zeros((48, 64), np.uint8), source="cam")
    given = ((dark, row(1, verdict="fault")), (dark, row(2, verdict="reject")), (Frame(IMAGE), row(3, verdict="fault")))
    assert [archive.save(frame, record) is not None for frame, record in given] == kept


def test_kept_image_is_the_frame_to_the_pixel(tmp_path: Path) -> None:
    (path,) = save(ImageArchive(tmp_path, StoreConfig(keep_images="all")), 7)
    np.testing.assert_array_equal(cv2.imread(str(path)), IMAGE)


def test_oldest_images_go_beyond_the_bound_in_bytes(tmp_path: Path) -> None:
    archive = ImageArchive(tmp_path, StoreConfig(keep_images="all"))
    paths = save(archive, *range(10))
    size = paths[0].stat().st_size
    assert archive.sweep() == 0
    archive.use(StoreConfig(keep_images="all", images_max_bytes=5 * size))
    assert archive.is_over
    assert archive.sweep() == 6  # to nine tenths of the bound, so that the next image doesn't make another sweep
    assert [path.exists() for path in paths] == [False] * 6 + [True] * 4
    assert (archive.counts.bytes, archive.counts.removed, archive.is_over) == (4 * size, 6, False)


def test_old_images_go_beyond_the_bound_in_days(tmp_path: Path) -> None:
    archive = ImageArchive(tmp_path, StoreConfig(keep_images="all", images_max_days=2.0))
    old, new = save(archive, 1, days_ago=3.0), save(archive, 2)
    assert archive.sweep() == 1
    assert (old[0].exists(), new[0].exists()) == (False, True)


def test_a_clock_that_is_ahead_deletes_few_images_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = ImageArchive(tmp_path, StoreConfig(keep_images="all", images_max_days=30.0))
    save(archive, *range(LEAST + 10))
    now_s = time.time()
    monkeypatch.setattr("lineside_agent.storage.images.time.time", lambda: now_s + 365 * 86400)
    assert archive.sweep() == LEAST


def test_images_make_room_for_verdicts_whatever_the_bounds(tmp_path: Path) -> None:
    archive = ImageArchive(tmp_path, StoreConfig(keep_images="all"))
    paths = save(archive, *range(4))
    assert archive.sweep(need_bytes=2 * paths[0].stat().st_size) == 2
    assert [path.exists() for path in paths] == [False, False, True, True]


def test_no_image_takes_the_room_that_verdicts_need(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = ImageArchive(tmp_path, StoreConfig(keep_images="all", free_min_bytes=1 << 60))
    for sequence in range(3):
        assert archive.save(Frame(IMAGE, source="cam", sequence=sequence), row(sequence)) is None
    assert (archive.counts.kept, archive.counts.skipped) == (0, 3)
    assert "verdicts need them" in archive.problem
    assert caplog.text.count("images are not kept") == 1  # said once, not for each
    archive.use(StoreConfig(keep_images="all", free_min_bytes=0))
    save(archive, 3)
    assert archive.problem == ""


def test_no_image_is_written_beyond_the_budget_of_writes(tmp_path: Path) -> None:
    archive = ImageArchive(tmp_path, StoreConfig(keep_images="all"), may_write=lambda: False)
    assert archive.save(Frame(IMAGE, source="cam", sequence=1), row()) is None
    assert "budget" in archive.problem


def test_source_cannot_choose_a_place_outside_the_archive(tmp_path: Path) -> None:
    archive = ImageArchive(tmp_path, StoreConfig(keep_images="all"))
    for source in ("../../etc", "folder:/a/b", "/x", ".."):
        assert tmp_path / "images" in archive.path(source, 3).resolve().parents
