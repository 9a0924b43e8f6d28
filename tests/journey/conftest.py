"""A site that runs, for journeys that attack or reconfigure it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import Broker
from tests.worlds.agent import folder_camera
from tests.worlds.bundles import make_bundle
from tests.worlds.site import GROUP, Site


@pytest.fixture
def site(tmp_path: Path, mosquitto: Broker) -> Iterator[Site]:
    """Its agent inspects four pictures again and again, with a bundle that came with it."""
    made = Site(
        tmp_path,
        frames=4,
        rate_hz=20.0,
        broker=mosquitto,
        groups=(GROUP, "other"),
        bundle=str(make_bundle(tmp_path / "bundle", gain=8.0).path),
        camera=folder_camera(loop=True, rate_hz=20.0),
        inspect={"health_frames": 2, "health_timeout_s": 2.0},
    )
    made.hub.start()
    made.agent.start()
    yield made
    made.end()
