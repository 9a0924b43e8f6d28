"""A rollout to 1,000 simulated devices, 1 % of them failing and 5 % losing power, beside the broker's own fan-out.

Baseline: one paho client publishes what one device needs (the bundle's bytes, in messages of 64 KiB) and the same
broker hands it to as many bare subscribers in one process: nothing asked for, verified, written or answered. Several
runs of the baseline, before and after the rollout.
"""

from __future__ import annotations

import json
import selectors
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
from lineside_hub.simulate.fleet import SimulationSettings, simulate
from lineside_hub.simulate.processes import free_port, start_broker
from lineside_runtime.bundle import CHUNK_BYTES

DEVICES = scaled(1000, smoke=20)
ROUNDS = scaled(3, smoke=1)
BAR_RSS = 400e6


def run() -> dict[str, Any]:
    """Simulates, and measures the fan-out before and after."""
    settings = SimulationSettings(devices=DEVICES)
    before = [_fan_out(settings.bundle_bytes) for _ in range(ROUNDS)]
    outcome = simulate(settings, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    after = [_fan_out(settings.bundle_bytes) for _ in range(ROUNDS)]
    fan_out = statistics.median(before + after)
    return {
        "baseline": "the same broker's fan-out of a whole bundle from one publisher to as many bare subscribers",
        "devices": outcome.devices,
        "right_state": outcome.right_state,
        "wrong_state": outcome.wrong_state,
        "rollout": outcome.rollout,
        "failing": outcome.failing,
        "away": outcome.away,
        "bundle_bytes": outcome.bundle_bytes,
        "seconds": outcome.seconds,
        "hub_rss_bytes": outcome.hub_rss_bytes,
        "hub_rss_bar": BAR_RSS,
        "bytes_sent": outcome.bytes_sent,
        "bytes_sent_a_device": round(outcome.bytes_sent / outcome.devices),
        "broker": outcome.broker,
        "fan_out_seconds": round(fan_out, 2),
        "fan_out_bytes": settings.bundle_bytes * DEVICES,
    }


def _fan_out(size: int) -> float:
    """Seconds until every bare subscriber has every byte."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        broker, _ = start_broker(Path(folder), port)
        with broker:
            command = [sys.executable, "-m", "benchmarks.hub.fleet", str(port), str(DEVICES), str(size)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as subscribers:
                if subscribers.stdout is None:
                    raise RuntimeError("no pipe from the subscribers")
                subscribers.stdout.readline()  # all are subscribed
                began = time.perf_counter()
                _publish(port, size)
                said = json.loads(subscribers.stdout.readline())
                elapsed = time.perf_counter() - began
    if said["complete"] != DEVICES:
        raise SystemExit(f"the broker brought all bytes to {said['complete']} of {DEVICES} subscribers")
    return elapsed


def _publish(port: int, size: int) -> None:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for start in range(0, size, CHUNK_BYTES):
        client.publish("fan/out", bytes(min(CHUNK_BYTES, size - start)), qos=1).wait_for_publish(60)
    client.disconnect()
    client.loop_stop()


def _socket(client: mqtt.Client) -> int:
    found = client.socket()
    if found is None:
        raise RuntimeError("not connected")
    return found.fileno()


def subscribers(port: int, count: int, size: int) -> None:
    """Many subscribers in one thread: a selector over paho's sockets."""
    got = [0] * count
    ready = [0]
    selector = selectors.DefaultSelector()
    clients = []

    def subscribed(*_: object) -> None:
        ready[0] += 1

    for number in range(count):
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.on_subscribe = subscribed

        def arrived(_c: mqtt.Client, _u: object, message: mqtt.MQTTMessage, number: int = number) -> None:
            got[number] += len(message.payload)

        client.on_message = arrived
        client.on_connect = lambda client, *_: client.subscribe("fan/out")
        client.connect("127.0.0.1", port)
        clients.append(client)
        selector.register(_socket(client), selectors.EVENT_READ, client)
    stop = time.monotonic() + 120
    told = False
    while time.monotonic() < stop and min(got) < size:
        for key, _ in selector.select(0.2):
            key.data.loop_read()
        for client in clients if not told else ():
            if client.want_write():
                client.loop_write()
        if ready[0] == count and not told:
            told = True
            print("ready", flush=True)
    print(json.dumps({"complete": sum(bytes_ >= size for bytes_ in got)}), flush=True)
    threading.Event().wait(0.1)


if __name__ == "__main__":
    subscribers(*(int(argument) for argument in sys.argv[1:4]))
