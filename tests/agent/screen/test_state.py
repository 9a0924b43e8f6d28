"""What the screen knows: parts with their images, and cameras and engines that stand still."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lineside_agent.config import AgentConfig, FolderCameraConfig, ScreenConfig, StoreConfig
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.screen.feed import IMAGE_SIDE_MAX, PARTS_KEPT, REJECTS_MAX, PartFeed, part_fields
from lineside_agent.screen.state import ScreenState
from lineside_agent.storage.images import ImageArchive
from lineside_link.messages import ResultRow, View
from lineside_models.frame import Frame


def row(sequence: int, verdict: Any = "reject", **fields: Any) -> ResultRow:
    return ResultRow(seq=0, part_id=f"P-{sequence}", source="cam", sequence=sequence, verdict=verdict, **fields)


def grey(level: int, source: str, size: tuple[int, int] = (40, 60)) -> Frame:
    return Frame(image=np.full(size, level, np.uint8), source=source)


def test_each_view_has_its_own_image_whichever_camera_decided() -> None:
    feed = PartFeed(lambda: None)
    views = (View(source="top", verdict="pass"), View(source="side", verdict="reject"))
    feed.add(row(1, views=views), (grey(200, "side"), grey(20, "top", (3000, 2000))))
    feed.encode(has_viewers=True)
    assert feed.published is not None
    assert [view["verdict"] for view in part_fields(feed.published.row)["views"]] == ["pass", "reject"]
    levels = []
    for view in (0, 1):
        data = feed.image(feed.published.number, view)
        assert data is not None
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert image is not None and max(image.shape) <= IMAGE_SIDE_MAX
        levels.append(int(image.mean()))
    assert levels == pytest.approx([20, 200], abs=3)
    assert feed.image(feed.published.number, 2) is None


def test_a_viewer_who_comes_late_gets_the_newest_part_and_every_reject_has_a_thumbnail() -> None:
    feed = PartFeed(lambda: None)
    feed.add_older([(row(-number), None, "not_sure") for number in range(1, 4)])
    for number in range(1, 10):
        feed.add(row(number, "reject" if number % 2 else "pass"), (grey(number, "cam"),))
    feed.encode(has_viewers=False)
    assert feed.published is None
    assert [one.row.sequence for one in feed.rejects()] == [9, 7, 5, 3, 1, -1, -2, -3]
    assert all(feed.thumbnail(one.number) for one in feed.rejects()[:5])
    numbers = [one.number for one in feed.rejects()]
    assert numbers == sorted(numbers, reverse=True)
    assert feed.rejects(numbers[2]) == feed.rejects()[:2]
    feed.encode(has_viewers=True)
    assert feed.published is not None and feed.published.row.sequence == 9
    for number in range(10, 100):
        feed.add(row(number), (grey(5, "cam"),))
        feed.encode(has_viewers=True)
    assert len(feed.rejects()) == REJECTS_MAX
    assert feed.image(feed.published.number, 0) is not None
    assert feed.image(feed.published.number - PARTS_KEPT, 0) is None


@pytest.fixture
def state(tmp_path: Path) -> Iterator[ScreenState]:
    camera = FolderCameraConfig(path=tmp_path, rate_hz=10.0)
    agent = AgentConfig(device="press-2", folder=tmp_path, camera=camera, bundle=tmp_path)
    archive = ImageArchive(tmp_path, StoreConfig())
    made = ScreenState(
        agent,
        ScreenConfig(),
        active=ActiveBundle(),
        archive=archive,
        flush=lambda _: True,
        send_image=lambda *_: None,
        recent_s=list,
    )
    yield made
    made.close()


def test_a_camera_that_stands_still_and_an_engine_that_hangs_are_told_apart(
    state: ScreenState, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def alarms(frames: int, inspected: int, after_s: float) -> list[str]:
        now[0] += after_s
        state.update_status({"models": ["m"], "frames": frames, "inspected": inspected})
        return [one["key"] for one in state.snapshot()["alarms"] if not one["over"]]

    assert alarms(0, 0, 100.0) == []
    assert alarms(9, 9, 1.0) == []
    assert alarms(9, 9, 10.0) == ["camera_silent"]
    assert alarms(20, 10, 1.0) == []
    assert alarms(30, 10, 4.0) == []
    assert alarms(50, 10, 4.0) == ["no_verdict"]
    assert alarms(60, 20, 1.0) == []
