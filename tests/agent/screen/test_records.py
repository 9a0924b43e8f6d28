"""What the screen says of one record: thresholds, image, heat map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lineside_agent.config import AgentConfig, FolderCameraConfig, InspectConfig, ScreenConfig, StoreConfig
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import load
from lineside_agent.screen.records import ScreenRecords
from lineside_agent.screen.state import ScreenState
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.records import RecordStore
from lineside_link.messages import ResultRow
from lineside_models.anomaly.learning import LearningOptions, learn
from lineside_models.anomaly.packaging import write_bundle
from lineside_models.frame import Frame
from lineside_models.simulator import render
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import ConfigError, InputNotFoundError
from tests.peers import wait_for


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that has learned from few good parts."""
    out = tmp_path_factory.mktemp("learnt") / "boards"
    frames = (Frame(image=np.asarray(render("steel", seed, defects=0).image)) for seed in range(10))
    write_bundle(learn(frames, LearningOptions(bank_bytes=32_000)), out, name="boards", source="the simulator")
    return open_bundle(out)


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
        image = np.asarray(render("steel", 3, defects=2).image)
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
        assert inspection.anomaly_score is not None
    finally:
        screen.active.swap(None)
        loaded.close()
