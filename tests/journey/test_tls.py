"""A hub and a device as an integrator sets them up: every step a command, mosquitto with mutual TLS and access list."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from lineside_link.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.topics import Topics
from tests.agent.bundles import bright, dark, make_bundle
from tests.peers import find_mosquitto, free_port, wait_for

pytestmark = pytest.mark.peer

SITE, GROUP, DEVICE = "plant-1", "line-1", "cam-01"


def lineside(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "lineside", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Processes:
    """Long-running commands with their logs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *command: str | Path) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._running.append(subprocess.Popen([str(part) for part in command], stdout=log, stderr=log))

    def end(self) -> None:
        for process in reversed(self._running):
            process.terminate()
            process.wait(60)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    started.end()


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A hub's folder with an authority and two enrolled devices of two groups."""
    folder = tmp_path / "plant"
    lineside("hub", "init", folder, "--site", SITE, "--group", GROUP, "--group", "line-2")
    lineside("hub", "secure", "--hub", folder, "--host", "127.0.0.1", "--port", str(free_port()))
    lineside("hub", "enroll", DEVICE, "--hub", folder, "--group", GROUP)
    lineside("hub", "enroll", "cam-02", "--hub", folder, "--group", "line-2")
    return folder


def link_of(plant: Path, name: str) -> dict[str, str]:
    configuration = (plant / "identity" / "mosquitto.conf").read_text()
    port = configuration.split("listener ")[1].split()[0]
    issued = plant / "identity" / "issued" / name
    return {
        "url": f"mqtts://127.0.0.1:{port}",
        "site": SITE,
        "ca": str(issued / "ca.pem"),
        "certificate": str(issued / "cert.pem"),
        "key": str(issued / "key.pem"),
    }


def write_agent(tmp_path: Path, plant: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(6):
        cv2.imwrite(str(photos / f"part-{number}.png"), bright() if number % 2 else dark())
    link = "\n".join(f'{key} = "{value}"' for key, value in link_of(plant, DEVICE).items())
    config = tmp_path / "agent.toml"
    config.write_text(
        f'device = "{DEVICE}"\ngroup = "{GROUP}"\nfolder = "{tmp_path / "state"}"\nroot = "{plant / "root.json"}"\n'
        f'[link]\n{link}\n[camera]\ntype = "folder"\npath = "{photos}"\n'
    )
    return config


def fleet(plant: Path) -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = json.loads(lineside("fleet", "ls", "--hub", plant, "--json"))["devices"]
    return devices


def test_push_and_results_over_mutual_tls(tmp_path: Path, plant: Path, processes: Processes) -> None:
    processes.start("mosquitto", find_mosquitto(), "-c", plant / "identity" / "mosquitto.conf")
    processes.start("hub", sys.executable, "-m", "lineside", "hub", "run", "--config", plant / "hub.toml")
    config = write_agent(tmp_path, plant)
    processes.start("agent", sys.executable, "-m", "lineside", "agent", "run", "--config", config)
    bundle = make_bundle(tmp_path / "bundle")
    pushed = json.loads(lineside("push", bundle.path, "--hub", plant, "--group", GROUP, "--json"))
    assert pushed["ref"]["target"] == f"{GROUP}/{bundle.manifest.name}-1.0.0.json"
    wait_for(lambda: [device["results"] for device in fleet(plant)] == [6], 60, what="six results at the hub")
    (device,) = fleet(plant)
    assert device["name"] == DEVICE
    assert device["installed"] == bundle.manifest.identity
    assert device["state"] == "active"
    assert device["up"] is True


def test_a_device_reaches_its_own_topics_only(plant: Path, processes: Processes) -> None:
    processes.start("mosquitto", find_mosquitto(), "-c", plant / "identity" / "mosquitto.conf")
    topics = Topics(SITE)
    heard: list[str] = []
    hub = LinkClient(LinkConfig(**link_of(plant, "lineside-hub")), "lineside-hub")
    other = LinkClient(LinkConfig(**link_of(plant, "cam-02")), "cam-02")
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


def test_no_certificate_no_connection(plant: Path, processes: Processes) -> None:
    processes.start("mosquitto", find_mosquitto(), "-c", plant / "identity" / "mosquitto.conf")
    link = link_of(plant, DEVICE)
    stranger = LinkClient(LinkConfig(url=link["url"], site=SITE, ca=link["ca"]), DEVICE)
    stranger.start()
    try:
        wait_for(lambda: stranger.last_error is not None, what="the broker's refusal")
        assert not stranger.connected
        assert stranger.last_error is not None
        assert stranger.last_error.code == 4003
    finally:
        stranger.close()
