from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from lineside_link.clock import ClockFloor

START = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def test_without_a_floor_the_systems_time_counts(tmp_path: Path) -> None:
    assert ClockFloor(tmp_path / "floor", now=lambda: EPOCH).now() == EPOCH
    assert abs(ClockFloor(tmp_path / "floor").now() - datetime.now(timezone.utc)) < timedelta(seconds=5)


def test_time_does_not_go_back_behind_what_was_seen_also_after_a_power_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "floor"
    ClockFloor(path, now=lambda: START).raise_to(START)
    later = ClockFloor(path, now=lambda: EPOCH)
    assert later.now() == START
    assert "1970" in caplog.text
    assert ClockFloor(path, now=lambda: START + timedelta(days=1)).now() == START + timedelta(days=1)


def test_it_is_never_lowered(tmp_path: Path) -> None:
    floor = ClockFloor(tmp_path / "floor", now=lambda: EPOCH)
    floor.raise_to(START)
    floor.raise_to(START - timedelta(days=3))
    assert floor.now() == START


def test_the_flash_is_spared(tmp_path: Path) -> None:
    path = tmp_path / "floor"
    floor = ClockFloor(path, write_every_s=600)
    floor.raise_to(START)
    first = path.read_bytes()
    floor.raise_to(START + timedelta(seconds=599))
    assert path.read_bytes() == first
    floor.raise_to(START + timedelta(seconds=600))
    assert path.read_bytes() != first


@pytest.mark.parametrize("damage", ["", "yesterday", "2026-13-01"])
def test_a_damaged_floor_is_said_and_does_not_stop_the_device(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = tmp_path / "floor"
    path.write_text(damage)
    floor = ClockFloor(path, now=lambda: EPOCH)
    assert floor.now() == EPOCH
    assert "damaged" in caplog.text
    floor.raise_to(START)
    assert ClockFloor(path, now=lambda: EPOCH).now() == START
