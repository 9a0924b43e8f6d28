"""The last messages of an agent, and those that it repeats.

The agent's own goodbye comes back to it before the connection ends, and is not answered with a birth.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lineside_agent.config import AgentConfig, InspectConfig, SimulatorCameraConfig
from lineside_agent.deployment.machine import BundleMachine
from lineside_agent.hub_client.client import HubClient
from lineside_agent.storage.records import RecordStore
from lineside_link.client.client import LinkClient
from lineside_link.messages import Reported, Up, decode, encode
from lineside_link.topics import Topics
from tests.peers import Broker
from tests.peers.waiting import wait_for
from tests.worlds.hub import make_trusted_repository

pytestmark = pytest.mark.peer

ECHO_S = 0.5
"""Time that the connection stays up after the goodbye: an answer would come in a few milliseconds."""


@pytest.fixture
def hub(mosquitto: Broker, tmp_path: Path) -> Iterator[HubClient]:
    make_trusted_repository(tmp_path)
    config = AgentConfig(
        device="cam-1",
        folder=tmp_path,
        camera=SimulatorCameraConfig(),
        inspect=InspectConfig(),
        root=tmp_path / "root.json",
        link=mosquitto.config("cam-1"),
    )
    store = RecordStore(tmp_path)
    made = HubClient(config, "boot-1", store, threading.Event())
    idle: Any = SimpleNamespace(post=lambda _: None, kick=lambda: None, machine=SimpleNamespace(state="idle"))
    made.start((idle,), idle)
    yield made
    made.close()
    store.close()


@pytest.fixture
def ups(mosquitto: Broker) -> Iterator[list[bool]]:
    found: list[bool] = []
    client = LinkClient(mosquitto.config("listener"), "listener")
    topic = Topics("t0").up("cam-1")
    client.subscribe(topic, lambda _, data: found.append(decode(data, Up).up))
    client.start()
    assert client.wait_connected(60.0)
    yield found
    client.close()


def test_a_goodbye_that_comes_back_while_the_connection_stands_is_the_last_word(
    hub: HubClient, ups: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bool] = []
    hub.client.subscribe(Topics("t0").up("cam-1"), _also(hub, heard))
    wait_for(lambda: ups and ups[-1] and heard and heard[-1], what="the birth, here and at the agent")
    at_once = hub.client.close

    def slowly(**how: Any) -> None:
        topic, goodbye = how["last"]
        hub.client.publish(topic, goodbye, qos=1, retain=True)
        wait_for(lambda: False in heard, what="the goodbye, at the agent")
        time.sleep(ECHO_S)
        at_once()

    monkeypatch.setattr(hub.client, "close", slowly)
    hub.close()
    wait_for(lambda: False in ups)
    assert ups[ups.index(False) :] == [False]


def test_free_disk_is_reported_again_while_nothing_else_changes(
    hub: HubClient, mosquitto: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[int] = []
    listener = LinkClient(mosquitto.config("listener"), "listener")
    listener.subscribe(
        Topics("t0").reported("cam-1"), lambda _, data: reported.append(decode(data, Reported).free_bytes)
    )
    listener.start()
    try:
        assert listener.wait_connected(60.0) and hub.client.wait_connected(60.0)
        hub.report_bundle(BundleMachine(), 1.0, "")
        disk = shutil.disk_usage(hub._config.folder)
        monkeypatch.setattr("shutil.disk_usage", lambda _: disk._replace(free=4096))
        hub.report_free_disk()
        wait_for(lambda: reported and reported[-1] == 4096, what="the new report")
        for _ in range(3):
            hub.report_free_disk()
        hub.report(recipe="last")
        wait_for(lambda: len(reported) == 3, what="the last report, right behind")
    finally:
        listener.close()


def _also(hub: HubClient, heard: list[bool]) -> Callable[[str, bytes], None]:
    """The agent's own handler, with a note that it was called."""

    def handle(topic: str, payload: bytes) -> None:
        hub._presence.received(topic, payload)
        heard.append(decode(payload, Up).up)

    return handle


def test_two_agents_with_one_name_end_each_others_connection_and_say_why(hub: HubClient, mosquitto: Broker) -> None:
    assert hub.client.wait_connected(60.0)
    topic = Topics("t0").up("cam-1")
    will = encode(Up(device="cam-1", up=False, boot_id="boot-2"))
    other = LinkClient(mosquitto.config("cam-1"), "cam-1", will=(topic, will))
    birth = encode(Up(device="cam-1", up=True, boot_id="boot-2"))

    def announce() -> None:
        other.publish(topic, birth, qos=1, retain=True)

    other.on_connect(announce)
    other.start()
    try:
        wait_for(lambda: hub.status()["name_conflicts"], what="the other agent, noticed")
        assert "another agent (boot id boot-2) is connected as cam-1" in hub.status()["link_problem"]
    finally:
        other.close()
