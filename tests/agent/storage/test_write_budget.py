"""Bytes written a day, with the kernel's own count and with simulated files of the kernel."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from lineside_agent.storage.write_budget import Saving, WriteBudget

DAY_S = 86400.0


class Kernel:
    """A kernel with the test's counts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "proc"
        (self.path / "self").mkdir(parents=True)
        self.tell(0)

    def tell(self, written: int) -> None:
        text = f"rchar: 1\nwrite_bytes: {written + 100}\ncancelled_write_bytes: 100\n"
        (self.path / "self" / "io").write_text(text)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_pace_is_told_a_day(kernel: Kernel, tmp_path: Path) -> None:
    wear = WriteBudget(tmp_path, max_bytes_a_day=None, proc=kernel.path, now_s=0.0)
    kernel.tell(1000)
    wear.sample(3600.0)
    assert (wear.written_bytes, wear.bytes_a_day) == (1000, 24_000)
    assert wear.may_write_picture()
    assert wear.saving is Saving.NONE


def test_pace_is_not_told_before_there_is_an_hour_of_it(kernel: Kernel, tmp_path: Path) -> None:
    wear = WriteBudget(tmp_path, max_bytes_a_day=None, proc=kernel.path, now_s=0.0)
    kernel.tell(40_000_000)  # what a start writes
    wear.sample(180.0)
    assert wear.bytes_a_day is None
    wear.sample(3600.0)
    assert wear.bytes_a_day == 960_000_000


def test_pace_is_that_of_the_last_day(kernel: Kernel, tmp_path: Path) -> None:
    wear = WriteBudget(tmp_path, max_bytes_a_day=None, proc=kernel.path, now_s=0.0)
    kernel.tell(10_000_000)
    for hour in range(60):
        wear.sample(3600.0 * hour)
    assert wear.bytes_a_day == 0
    assert wear.written_bytes == 10_000_000


def test_pictures_stop_before_records_are_written_in_groups(kernel: Kernel, tmp_path: Path) -> None:
    wear = WriteBudget(tmp_path, max_bytes_a_day=48_000, proc=kernel.path, now_s=0.0)  # a bucket of 1000
    kernel.tell(600)
    wear.sample(0.0)
    assert (wear.may_write_picture(), wear.saving, wear.problem) == (False, Saving.NONE, "")
    kernel.tell(1100)
    wear.sample(0.0)
    assert (wear.saving, wear.problem) == (Saving.GROUPS, "")
    wear.sample(3600.0)
    assert (wear.may_write_picture(), wear.saving) == (True, Saving.NONE)


def test_packs_go_on_until_the_bucket_has_something_again(kernel: Kernel, tmp_path: Path) -> None:
    wear = WriteBudget(tmp_path, max_bytes_a_day=48_000, proc=kernel.path, now_s=0.0)
    kernel.tell(1600)
    wear.sample(0.0)
    assert (wear.saving, wear.problem) == (Saving.PACKS, "")
    stages = []
    for second in (1000.0, 1200.0):
        wear.sample(second)
        stages.append(wear.saving)
    assert stages == [Saving.PACKS, Saving.NONE]


def test_limit_that_even_packs_exceed_is_said(kernel: Kernel, tmp_path: Path) -> None:
    wear = WriteBudget(tmp_path, max_bytes_a_day=48_000, proc=kernel.path, now_s=0.0)
    said = []
    for minute in range(120):
        kernel.tell(3000 + 40 * minute)  # 58 KB a day
        wear.sample(60.0 * minute)
        said.append(wear.problem)
    assert said[0] == "", "the start may have been dear"
    assert "48000" in said[-1]
    wear.sample(60.0 * 120 + 1200.0)
    assert wear.problem == ""


def test_no_day_exceeds_the_limit_whatever_could_be_written(kernel: Kernel, tmp_path: Path) -> None:
    """A writer that takes all it may, in each of the three ways, from the first second on."""
    wear = WriteBudget(tmp_path, max_bytes_a_day=50_000_000, proc=kernel.path, now_s=0.0)
    pace = {Saving.NONE: 41_000.0, Saving.GROUPS: 11_000.0, Saving.PACKS: 450.0}  # bytes a second, as measured
    written = 0.0
    for second in range(10, 86_401, 10):
        written += 10 * pace[wear.saving]
        kernel.tell(int(written))
        wear.sample(float(second))
    assert 0.7 * 50e6 < written <= 50e6
    assert wear.problem == ""


def test_a_burst_costs_an_hour_without_pictures_and_not_a_day(kernel: Kernel, tmp_path: Path) -> None:
    wear = WriteBudget(tmp_path, max_bytes_a_day=48_000, proc=kernel.path, now_s=0.0)
    kernel.tell(10_000_000)
    wear.sample(0.0)
    wear.sample(6000.0)
    assert wear.may_write_picture()


def test_another_bound_holds_from_now_on(kernel: Kernel, tmp_path: Path) -> None:
    wear = WriteBudget(tmp_path, max_bytes_a_day=48_000, proc=kernel.path, now_s=0.0)
    kernel.tell(2000)
    wear.sample(0.0)
    wear.use(None)
    assert wear.may_write_picture()
    wear.use(240_000)
    assert wear.may_write_picture()


def test_sum_is_kept_over_restarts(kernel: Kernel, tmp_path: Path) -> None:
    first = WriteBudget(tmp_path, max_bytes_a_day=None, proc=kernel.path, now_s=0.0)
    kernel.tell(700)
    first.sample(10.0)
    first.save(10.0)
    kernel.tell(0)
    second = WriteBudget(tmp_path, max_bytes_a_day=None, proc=kernel.path, now_s=0.0)
    kernel.tell(50)
    second.sample(5.0)
    assert (second.written_bytes, second.written_bytes_ever) == (50, 750)


def test_kernel_that_does_not_tell_is_said_where_a_bound_was_asked_for(kernel: Kernel, tmp_path: Path) -> None:
    (kernel.path / "self" / "io").unlink()
    wear = WriteBudget(tmp_path, max_bytes_a_day=48_000, proc=kernel.path, now_s=0.0)
    wear.sample(10.0)
    assert "doesn't tell" in wear.problem


def test_real_kernel_counts_what_is_really_written() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # on a disk, also where /tmp is in memory
        _check_that_the_kernel_counts(Path(name))


def _check_that_the_kernel_counts(folder: Path) -> None:
    wear = WriteBudget(folder, max_bytes_a_day=None)
    with (folder / "data").open("wb") as file:
        file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    wear.sample()
    if os.major(folder.stat().st_dev) == 0 and wear.written_bytes == 0:
        pytest.skip("the folder for temporary files is on no disk here")
    assert wear.written_bytes >= 1 << 20
