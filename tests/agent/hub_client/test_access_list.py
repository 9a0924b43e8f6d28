"""A device that its broker does not know reports that, and connects once the broker knows it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lineside_agent.config import AgentConfig, InspectConfig, SimulatorCameraConfig
from lineside_agent.hub_client import presence
from lineside_agent.hub_client.client import HubClient
from lineside_agent.storage.records import RecordStore
from lineside_hub.repository.repository import Repository
from lineside_link.client.client import LinkClient
from lineside_link.messages import Desired, encode
from lineside_link.topics import Topics
from lineside_runtime.serving.backoff import Backoff
from tests.peers.brokers import SecureMosquitto
from tests.peers.waiting import wait_for

pytestmark = pytest.mark.peer


@pytest.fixture
def desired_states() -> list[object]:
    return []


@pytest.fixture
def device(
    secure_mosquitto: SecureMosquitto, tmp_path: Path, desired_states: list[object], monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubClient]:
    monkeypatch.setattr(presence, "ECHO", Backoff(0.5, 1.0))
    folder = tmp_path / "device"
    folder.mkdir()
    (folder / "root.json").write_bytes(Repository.create(tmp_path / "hub", groups=["line"]).root_bytes())
    credentials = secure_mosquitto.authority.enroll("cam-1", group="line")  # the broker hears nothing of it
    config = AgentConfig(
        device="cam-1",
        group="line",
        folder=folder,
        camera=SimulatorCameraConfig(),
        inspect=InspectConfig(),
        root=folder / "root.json",
        link=secure_mosquitto.config_with(credentials),
    )
    store = RecordStore(folder)
    made = HubClient(config, "boot-1", store, threading.Event())
    idle: Any = SimpleNamespace(post=desired_states.append, kick=lambda: None, machine=SimpleNamespace(state="idle"))
    made.start((idle, idle), idle)
    yield made
    made.close()
    store.close()


def test_a_device_that_the_access_list_leaves_out_recovers_when_it_is_added(
    secure_mosquitto: SecureMosquitto, device: HubClient, desired_states: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "REPEAT_S", 0.2)
    hub = LinkClient(secure_mosquitto.config(), "lineside-hub")
    hub.start()
    assert hub.wait_connected(30.0)
    hub.publish(Topics("t0").group_desired("line"), encode(Desired(epoch=1, gen=7)), retain=True)

    def is_unheard() -> bool:
        device.check_connection()
        return "takes and brings nothing of cam-1" in str(device.problem)

    def receives() -> bool:
        device.check_connection()
        return bool(desired_states)

    try:
        for was_known in (False, True):
            wait_for(is_unheard, 60.0, what="the problem")
            assert was_known or desired_states == []
            desired_states.clear()
            secure_mosquitto.reload()
            wait_for(receives, 60.0, what="the desired state")
            wait_for(lambda: device.problem is None, 60.0, what="no problem any more")
            secure_mosquitto.reload(without=["cam-1"])
    finally:
        hub.close()
