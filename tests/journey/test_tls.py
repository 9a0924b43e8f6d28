"""A hub and a device as an integrator sets them up: every step a command, mosquitto with mutual TLS and access list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.topics import Topics
from tests.peers import wait_for
from tests.worlds.agent import AgentProcess, write_agent, write_frames
from tests.worlds.bundles import make_bundle
from tests.worlds.hub import query
from tests.worlds.secure_site import SecureSite, lineside, run_here

pytestmark = pytest.mark.peer

SITE, GROUP, DEVICE = "plant-1", "line-1", "cam-01"


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> SecureSite:
    """An authority and two enrolled devices of two groups."""
    made = SecureSite(tmp_path_factory.mktemp("plant"), groups=[GROUP, "line-2"], name=SITE)
    run_here("hub", "enroll", DEVICE, "--hub", made.folder, "--group", GROUP)
    run_here("hub", "enroll", "cam-02", "--hub", made.folder, "--group", "line-2")
    return made


@pytest.fixture
def site(enrolled: SecureSite) -> Iterator[SecureSite]:
    """Its broker runs."""
    enrolled.start_broker()
    yield enrolled
    enrolled.stop()


@pytest.fixture
def agent(tmp_path: Path, site: SecureSite) -> Iterator[AgentProcess]:
    (tmp_path / "device").mkdir()
    write_frames(tmp_path / "device" / "frames", 6)
    root = str(site.folder / "root.json")
    write_agent(tmp_path / "device", device=DEVICE, group=GROUP, link=site.link(DEVICE), root=root)
    made = AgentProcess(tmp_path / "device")
    yield made
    made.stop()


def fleet(site: SecureSite) -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = json.loads(run_here("fleet", "ls", "--hub", site.folder, "--json"))["devices"]
    return devices


def test_push_and_results_over_mutual_tls(tmp_path: Path, site: SecureSite, agent: AgentProcess) -> None:
    site.start_hub()
    agent.start()
    bundle = make_bundle(tmp_path / "bundle", ballast=1_000_000)
    pushed = json.loads(lineside("push", bundle.path, "--hub", site.folder, "--group", GROUP, "--json"))
    assert pushed["ref"]["target"] == f"{GROUP}/{bundle.manifest.name}-1.0.0.json"
    wait_for(lambda: query(site.folder, "SELECT count(*) FROM results") == [(6,)], 60, what="six results at the hub")
    (device,) = fleet(site)
    assert (device["name"], device["results"]) == (DEVICE, 6)
    assert device["installed"] == bundle.manifest.identity
    assert device["state"] == "active"
    assert device["up"] is True


def test_a_device_reaches_its_own_topics_only(site: SecureSite) -> None:
    topics = Topics(SITE)
    heard: list[str] = []
    hub = LinkClient(site.link("lineside-hub"), "lineside-hub")
    other = LinkClient(site.link("cam-02"), "cam-02")
    hub.subscribe(f"{topics.prefix}/d/+/res", lambda topic, _payload: heard.append(topic))
    other.subscribe(topics.results_ack("cam-02"), lambda topic, _payload: heard.append(topic))
    hub.start()
    other.start()
    try:
        assert hub.wait_connected(60)
        assert other.wait_connected(60)
        other.publish(topics.results(DEVICE), b"forged")
        other.publish(topics.group_desired(GROUP), b"forged")
        other.publish(topics.results("cam-02"), b"its own")
        wait_for(lambda: heard, what="the device's own result")
        hub.publish(topics.results_ack(DEVICE), b"not for cam-02")
        hub.publish(topics.results_ack("cam-02"), b"for cam-02")
        wait_for(lambda: len(heard) > 1, what="its acknowledgement")
    finally:
        other.close()
        hub.close()
    assert heard == [topics.results("cam-02"), topics.results_ack("cam-02")]


def test_no_certificate_no_connection(site: SecureSite) -> None:
    link = site.link(DEVICE)
    stranger = LinkClient(LinkConfig(url=link.url, site=SITE, ca=link.ca), DEVICE)
    stranger.start()
    try:
        wait_for(lambda: stranger.last_error is not None, what="the broker's refusal")
        assert not stranger.connected
        assert stranger.last_error is not None
        assert stranger.last_error.code == 4003
    finally:
        stranger.close()
