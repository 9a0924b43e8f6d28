"""Somebody who may write to the broker: what he says is refused with its code, and hub and agent live on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lineside_hub.identity.access_lists import RIGHTS
from lineside_hub.results.database import Database
from lineside_link.client.client import LinkClient
from lineside_link.messages import BundleRef, Desired, encode
from lineside_link.topics import Topics
from tests.peers.waiting import wait_for
from tests.worlds.agent import DEVICE
from tests.worlds.bundles import make_bundle
from tests.worlds.site import GROUP, SITE, Site

pytestmark = pytest.mark.slow

TOPICS = Topics(SITE)
GARBAGE = (b"", b"\xff\xfe", b"{", b"[" * 20_000, b'{"v": 1e999}', bytes(300_000), b"\n" * 64)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, frames=200, rate_hz=10.0)
    made.start()
    yield made
    made.end()


@pytest.fixture
def attacker(site: Site) -> Iterator[LinkClient]:
    client = LinkClient(site.broker.config(site=SITE), "attacker")
    client.start()
    assert client.wait_connected(60), client.last_error
    yield client
    client.close()


def wish(site: Site) -> Desired:
    database = Database.open(site.hub_folder)
    try:
        found = database.desired_state(f"g/{GROUP}")
    finally:
        database.close()
    assert found is not None
    return found


def test_forged_replayed_and_unreadable_messages(site: Site, attacker: LinkClient, tmp_path: Path) -> None:
    first = site.push(make_bundle(tmp_path / "1"))
    site.wait_state("active", first)
    genuine = wish(site)

    for right in RIGHTS:
        topic = right.name(TOPICS, GROUP if right.of == "group" else DEVICE).replace("#", "surface/x").replace("+", "x")
        for payload in GARBAGE:
            assert attacker.publish(topic, payload, qos=0)

    evil = BundleRef(name="evil", version="9.0.0", target=f"{GROUP}/evil-9.0.0.json", sha256="0" * 64)
    forged = msgspec.structs.replace(genuine, gen=genuine.gen + 1, bundle=evil)
    assert attacker.publish(TOPICS.group_desired(GROUP), encode(forged), retain=True)
    wait_for(
        lambda: ("failed", 3007) in [(kind, code) for kind, code, _ in site.events()],
        60,
        what=lambda: f"{site.events()}\n{site.agent.log[-3000:]}",
    )
    assert site.agent.machine.installed is not None
    assert site.agent.machine.installed.identity == "bright-spots@1.0.0"

    assert attacker.publish(TOPICS.group_desired(GROUP), encode(genuine), retain=True)
    inspected = site.agent.status["inspected"]
    site.wait_inspected(min(inspected + 5, site.frames))
    assert site.agent.machine.group_desired is not None and site.agent.machine.group_desired.gen == forged.gen, (
        "the older one is ignored"
    )
    assert site.agent.alive and site.hub.alive

    site.push(make_bundle(tmp_path / "2", version="2.0.0"))  # of the generation that the forger took
    site.wait_state("active", site.push(make_bundle(tmp_path / "3", version="3.0.0", gain=30.0)))
    site.wait_synced()
    site.check_nothing_lost_nothing_twice()
