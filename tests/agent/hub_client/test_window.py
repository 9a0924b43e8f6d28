"""Which maintenance window a deployment waits for."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

from lineside_agent.config import AgentConfig, InspectConfig, SimulatorCameraConfig
from lineside_agent.deployment.machine import AgentMachine, BundleMachine
from lineside_agent.hub_client.client import HubClient
from lineside_agent.storage.records import RecordStore
from lineside_link.client.client import LinkConfig
from lineside_link.messages import BundleRef, Desired, MaintenanceWindow
from tests.peers import free_port
from tests.worlds.hub import make_trusted_repository

BUNDLE = BundleRef(name="surface", version="1.0.0", target="line/surface-1.0.0.json", sha256="0" * 64)


def test_each_kind_of_artifact_waits_for_its_own_window(tmp_path: Path) -> None:
    make_trusted_repository(tmp_path)
    config = AgentConfig(
        device="cam-1",
        folder=tmp_path,
        camera=SimulatorCameraConfig(),
        inspect=InspectConfig(),
        root=tmp_path / "root.json",
        link=LinkConfig(url=f"mqtt://127.0.0.1:{free_port()}", site="t0"),
    )
    store = RecordStore(tmp_path)
    client = HubClient(config, "boot-1", store, threading.Event())
    now = datetime.now(timezone.utc)
    start, end = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (6, 7))
    later = MaintenanceWindow(start=start, end=end, timezone="UTC")
    desired = Desired(epoch=1, gen=2, bundle=BUNDLE, agent=BUNDLE, windows={"bundle": later, "agent": None})
    assert "window opens" in client.reason_to_wait(BundleMachine(group_desired=desired), fetching=False)
    assert client.reason_to_wait(AgentMachine(group_desired=desired), fetching=False) == ""
    client.close()
    store.close()
