"""What the screen says of one record: thresholds, image, heat map."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from lineside_agent.config import AgentConfig, FolderCameraConfig, InspectConfig, ScreenConfig, StoreConfig
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import load
from lineside_agent.screen import good_parts
from lineside_agent.screen.good_parts import RecentGoodParts
from lineside_agent.screen.heat_map import WAITING_MAX, LiveHeat
from lineside_agent.screen.records import ScreenRecords
from lineside_agent.screen.state import ScreenState
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.records import RecordStore
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame, UInt8Array
from lineside_models.simulator import render
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError, InputNotFoundError, RequestError
from tests.peers import wait_for


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[ScreenState]:
    agent = AgentConfig(device="press-2", folder=tmp_path, camera=FolderCameraConfig(path=tmp_path), bundle=tmp_path)
    archive = ImageArchive(tmp_path, StoreConfig())
    store = RecordStore(tmp_path, archive=archive)
    state = ScreenState(
        agent,
        ScreenConfig(),
        active=ActiveBundle(),
        archive=archive,
        flush=store.flush,
        send_image=store.send_image,
        recent_s=list,
    )
    frame = Frame(image=np.asarray(render("steel", 3, defects=2).image), source="cam", sequence=7, part_id="P-7")
    height, width = frame.size
    fields: dict[str, Any] = {"part_id": "P-7", "source": "cam", "sequence": 7, "width": width, "height": height}
    store.record(ResultRow(seq=0, verdict="reject", bundle_sha256="other", **fields), frame)
    store.flush(20.0)
    yield state
    state.close()
    store.close()


def test_a_record_of_another_bundle_has_its_image_and_no_threshold(screen: ScreenState) -> None:
    records = ScreenRecords(screen)
    details = records.details("cam", 7)
    assert (details["thresholds"], details["has_image"], details["has_heat"]) == (None, True, False)
    assert records.image("cam", 7, 0) is not None
    assert records.image("cam", 7, 1) is None
    with pytest.raises(ConfigError):
        records.heat("cam", 7, 0)
    with pytest.raises(InputNotFoundError):
        records.details("cam", 8)


def test_a_bundle_that_has_learned_shows_its_threshold_and_a_heat_map(screen: ScreenState, learnt: Bundle) -> None:
    loaded = load("a", learnt, InspectConfig())
    try:
        screen.active.swap(loaded)
        image = np.array(render("steel", 3, defects=2).image)
        cv2.circle(image, (100, 100), 25, (250,) * 3, -1)  # clear enough for the threshold of ten parts
        inspection = loaded.inspect(Frame(image=image, source="cam", sequence=9))
        row = ResultRow(seq=0, part_id="P-9", source="cam", sequence=9, verdict="reject", bundle_sha256=learnt.digest)
        screen.feed.add(row, (Frame(image=image, source="cam", sequence=9),))
        wait_for(lambda: screen.feed.reject("cam", 9))
        cv2.imwrite(str(screen.archive.path("cam", 9)), image)
        records = ScreenRecords(screen)
        details = records.details("cam", 9)
        assert details["has_heat"]
        assert set(details["thresholds"]) == set(learnt.manifest.labels)
        heated = cv2.imdecode(np.frombuffer(records.heat("cam", 9, 0), np.uint8), cv2.IMREAD_COLOR)
        assert heated is not None and heated.shape[:2] == image.shape[:2]
        coloured = (heated.astype(int).max(axis=2) - heated.astype(int).min(axis=2)) > 40
        assert coloured.any()
        number = next(one.number for one in screen.feed.rejects() if one.row.sequence == 9)
        live = LiveHeat(screen)

        async def ask() -> list[bytes | BaseException]:
            asked = (live.get(number, 0) for _ in range(WAITING_MAX + 1))
            return await asyncio.gather(*asked, return_exceptions=True)

        made = asyncio.run(ask())
        assert len({one for one in made if isinstance(one, bytes)}) == 1  # made once for all
        assert [one.status for one in made if isinstance(one, RequestError)] == [429]
        assert records.heat("cam", 9, 0) in made
        screen.archive.path("cam", 9).unlink()
        assert records.details("cam", 9)["has_heat"]  # the camera's own image is still here
        assert inspection.anomaly_score is not None
    finally:
        screen.active.swap(None)
        loaded.close()


def test_the_most_similar_good_part_is_found_in_memory_and_on_disk(
    screen: ScreenState, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = ScreenRecords(screen)
    assert records.similar("cam", 7, 0) is None
    monkeypatch.setattr(good_parts, "EVERY_S", 0.0)
    image = np.asarray(render("steel", 3, defects=2).image)

    def good(sequence: int, shown: UInt8Array, recipe: str = "") -> tuple[ResultRow, Frame]:
        row = ResultRow(seq=0, part_id=f"G-{sequence}", source="cam", sequence=sequence, verdict="pass", recipe=recipe)
        return row, Frame(image=shown, source="cam", sequence=sequence)

    for sequence, shown in ((20, image[::-1]), (21, np.roll(image, 6, axis=1)), (22, 255 - image)):
        row, frame = good(sequence, np.ascontiguousarray(shown))
        screen.observe(row, (frame,))
        wait_for(functools.partial(screen.good_parts.image, "cam", sequence, 0))
    screen.observe(*good(23, image, "another product")[:1], good(23, image)[1:])
    wait_for(lambda: screen.good_parts.image("cam", 23, 0))
    found = records.similar("cam", 7, 0)
    assert found is not None and (found.part_id, found.compared) == ("G-21", 3)
    assert 0.5 < found.likeness < 1
    (screen.agent.folder / "other").mkdir()
    store = RecordStore(screen.agent.folder / "other")
    other = RecentGoodParts(msgspec.structs.replace(screen.agent, folder=screen.agent.folder / "other"), screen.archive)
    try:
        for sequence, shown in ((30, image), (31, image[::-1])):
            row, frame = good(sequence, np.ascontiguousarray(shown))
            store.record(row, frame)
            cv2.imwrite(str(screen.archive.path("cam", sequence)), frame.image)
        store.flush(20.0)
        stored = other.most_similar(image, good(99, image)[0], 0)
    finally:
        store.close()
    assert stored is not None and (stored.sequence, stored.likeness, stored.compared) == (30, 1.0, 2)
    blank = np.full((50, 50), 128, np.uint8)
    assert (other.most_similar(blank, good(99, image)[0], 0) or found).likeness <= 0
