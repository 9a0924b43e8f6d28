"""How fast a device fetches a bundle: verified chunks, written and fsynced, against bare messages of the same bytes.

Baseline: paho-mqtt publishing the same number of messages of the same size through the same broker to one
subscriber, QoS 0, nothing verified, nothing written. The broker is the embedded one (amqtt), each transfer in turn.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.smoke import scaled
from lineside.demo.processes import free_port, listening
from lineside_hub.repository.repository import Repository
from lineside_hub.repository.responder import Responder
from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.topics import Topics
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.transfer.transfer import fetch_files
from lineside_models import zoo
from lineside_runtime.bundle import CHUNK_BYTES, Bundle, open_bundle

ROUNDS = scaled(5, smoke=1)
BUNDLE = scaled("surface-12-float", smoke="surface-12")
TOPICS = Topics("bench")
DEVICE = "cam-01"


def run() -> dict[str, Any]:
    """Measures goodput in MB/s."""
    bundle = open_bundle(zoo.path(BUNDLE))
    port = free_port()
    command = [sys.executable, "-m", "lineside", "hub", "broker", "--port", str(port)]
    broker = subprocess.Popen(command)
    try:
        while not listening(port):
            time.sleep(0.05)
        with tempfile.TemporaryDirectory() as folder:
            times = _measure(bundle, port, Path(folder))
    finally:
        broker.terminate()
        broker.wait()
    megabytes = bundle.manifest.size_bytes / 1e6
    ratios = [bare / ours for ours, bare in zip(times["fetch"], times["bare"], strict=True)]
    return {
        "baseline": "paho-mqtt, the same messages, unverified and unwritten, through the same amqtt broker",
        "bundle_bytes": bundle.manifest.size_bytes,
        "fetch_mb_s": round(megabytes / statistics.median(times["fetch"]), 2),
        "bare_mb_s": round(megabytes / statistics.median(times["bare"]), 2),
        "goodput_ratio": round(statistics.median(ratios), 3),
    }


def _measure(bundle: Bundle, port: int, folder: Path) -> dict[str, list[float]]:
    repository = Repository.create(folder / "hub", groups=["line"])
    repository.publish(bundle, "line")
    link = LinkConfig(url=f"mqtt://127.0.0.1:{port}", site="bench")
    hub, device = LinkClient(link, "hub"), LinkClient(link, DEVICE)
    responder = Responder(repository, lambda to, *pieces: hub.send(TOPICS.repo_response(to), *pieces))
    hub.subscribe(TOPICS.repo_get("+"), lambda topic, data: responder.offer(TOPICS.device_of(topic), data), qos=0)
    repo = RepoClient(device, TOPICS, DEVICE)
    responder.start()
    hub.start()
    device.start()
    times: dict[str, list[float]] = {"fetch": [], "bare": []}
    try:
        hub.wait_connected(10)
        device.wait_connected(10)
        for round_ in range(ROUNDS):
            target = folder / f"fetched-{round_}"
            target.mkdir()
            began = time.perf_counter()
            fetch_files(repo, bundle.manifest, target)
            times["fetch"].append(time.perf_counter() - began)
            times["bare"].append(_bare(port, bundle.manifest.size_bytes))
    finally:
        device.close()
        hub.close()
        responder.close()
    return times


def _bare(port: int, size: int) -> float:
    """Returns the seconds that the same bytes take without anything of ours."""
    wanted = -(-size // CHUNK_BYTES)
    received, subscribed, done = [0], threading.Event(), threading.Event()

    def count(*_: object) -> None:
        received[0] += 1
        if received[0] == wanted:
            done.set()

    ends = [mqtt.Client(CallbackAPIVersion.VERSION2) for _ in range(2)]
    sender, receiver = ends
    receiver.on_message = count
    receiver.on_subscribe = lambda *_: subscribed.set()
    for end in ends:
        end.connect("127.0.0.1", port)
        end.loop_start()
    receiver.subscribe("bare")
    subscribed.wait(10)
    payload = bytes(CHUNK_BYTES)
    began = time.perf_counter()
    for _ in range(wanted):
        sender.publish("bare", payload)
    done.wait(60)
    elapsed = time.perf_counter() - began
    for end in ends:
        end.disconnect()
        end.loop_stop()
    return elapsed
