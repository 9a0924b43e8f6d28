"""``kill -9`` of agent, hub and broker while kept frames go home: each is there once, whole, and no verdict suffers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside_hub.config import load_config
from lineside_hub.results.queries import Query, export_frames
from tests.peers import Broker, wait_for
from tests.worlds.bundles import bright, make_bundle, shade
from tests.worlds.hub import query
from tests.worlds.site import TIMEOUT_S, Site

pytestmark = [pytest.mark.slow, pytest.mark.peer]

FRAMES = 24


@pytest.fixture
def site(tmp_path: Path, mosquitto: Broker) -> Iterator[Site]:
    made = Site(
        tmp_path, frames=FRAMES, rate_hz=12.0, broker=mosquitto, store={"keep_images": "all", "send_bytes_s": 400_000.0}
    )
    for number in range(FRAMES):  # of a dozen pieces each
        noise = np.random.default_rng(number).integers(0, 8, (320, 320, 3), np.uint8)
        plain = cv2.resize(bright() if number % 2 else shade(40), (320, 320))
        cv2.imwrite(str(tmp_path / "frames" / f"{number:04d}.png"), plain.reshape(320, 320, -1)[:, :, :3] ^ noise)
    yield made
    made.end()


def rows(site: Site) -> list[tuple[int, str]]:
    return query(site.hub_folder, "SELECT seq, sha256 FROM frames ORDER BY seq")


def test_frames_come_home_once_through_kills_of_everybody(site: Site, tmp_path: Path) -> None:
    site.hub.start()
    site.agent.start()
    site.wait_state("active", site.push(make_bundle(tmp_path / "b")))
    for victim, after in (("agent", 2), ("hub", 6), ("agent", 9), ("broker", 13)):
        wait_for(lambda: len(rows(site)) >= after, TIMEOUT_S, what=lambda: f"{after} frames, {site.agent.status}")  # noqa: B023
        if victim == "broker":
            site.broker.kill()
            site.broker.start()
        else:
            (site.agent if victim == "agent" else site.hub).restart()
    site.wait_synced()
    wait_for(
        lambda: len(rows(site)) >= FRAMES,
        120,
        what=lambda: f"all frames, {site.agent.status}\n{site.agent.log[-2000:]}",
    )
    site.check_nothing_lost_nothing_twice()
    on_device = {
        int(path.stem) + 1: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (site.agent.state / "images").rglob("*.png")
    }
    assert dict(rows(site)) == on_device
    written = export_frames(load_config(site.hub.config_path), Query(), tmp_path / "out")
    assert (written.frames, written.missing) == (len(set(on_device.values())), 0)
    wait_for(lambda: site.agent.status.get("images_unsent") == 0, TIMEOUT_S, what="the device's own view")
    assert site.agent.status["frames_refused"] == 0
