"""The same walk with Debian's mosquitto, mutual TLS and the hub's access list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_hub.repository.repository import Repository
from lineside_hub.rollouts.push import set_desired
from tests.peers.brokers import SecureMosquitto, find_mosquitto
from tests.worlds.agent import DEVICE
from tests.worlds.bundles import make_bundle
from tests.worlds.site import GROUP, Site

pytestmark = [pytest.mark.slow, pytest.mark.peer]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    broker = SecureMosquitto(tmp_path / "mosquitto", program=find_mosquitto())
    made = Site(tmp_path, frames=40, rate_hz=15.0, broker=broker)
    made.start()
    yield made
    made.end()


def test_device_whose_certificate_is_of_another_group_does_not_hear_the_wishes_of_this_one(
    site: Site, tmp_path: Path
) -> None:
    assert isinstance(site.broker, SecureMosquitto)
    site.agent.kill()
    site.broker.enroll(DEVICE, group="another")
    site.push(make_bundle(tmp_path / "1"))
    site.push(make_bundle(tmp_path / "2", version="2.0.0"))
    site.agent.start()
    ref = Repository.open(site.hub_folder).find(GROUP, name="bright-spots", version="2.0.0")
    gen = set_desired(site.hub_folder, ref, device=DEVICE).gen
    site.wait_state("active", gen)  # its own wishes it hears
    assert site.agent.machine.group_desired is None
    assert site.agent.machine.device_desired is not None
