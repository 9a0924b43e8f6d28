"""The bytes of a bundle as bare messages: ``python -m benchmarks.link.bare_mqtt send|take PORT FOLDER QOS``.

paho-mqtt as its users write it: messages of 64 KiB (with QoS 0 none of 16 KiB to 4 MiB was faster, with QoS 1 some by
a tenth), cut beforehand from the files' bytes and held in memory; nothing is read from a disk, verified or written.
``take`` says "go" and prints the seconds until the last byte is there, once a line on stdin.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from lineside_runtime.bundle import CHUNK_BYTES, open_bundle

INFLIGHT = 1000
"""With QoS 1 paho has 20 messages on their way at a time if nothing is said, which is slower."""


def send(port: int, folder: str, qos: int) -> None:
    """Answers each "go" with all messages, until it is killed."""
    messages = _messages(folder)
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(INFLIGHT)
    asked = threading.Semaphore(0)

    def connected(*_: object) -> None:
        client.subscribe(f"bare/{qos}/go")

    client.on_connect = connected
    client.on_message = lambda *_: asked.release()
    client.connect("127.0.0.1", port)
    client.loop_start()
    while True:
        asked.acquire()
        for payload in messages:
            client.publish(f"bare/{qos}/data", payload, qos=qos)


def take(port: int, folder: str, qos: int) -> None:
    """Times one transfer for each line on stdin."""
    wanted = len(_messages(folder))
    received, subscribed, done = [0], threading.Event(), threading.Event()

    def count(*_: object) -> None:
        received[0] += 1
        if received[0] == wanted:
            done.set()

    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_message = count
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe(f"bare/{qos}/data", qos)
    subscribed.wait(30)
    for _ in sys.stdin:
        received[0] = 0
        done.clear()
        began = time.perf_counter()
        client.publish(f"bare/{qos}/go", b"")
        done.wait(120)
        print(time.perf_counter() - began, flush=True)


def _messages(folder: str) -> list[bytes]:
    """All bytes of a bundle's files, cut into messages."""
    bundle = open_bundle(Path(folder), verify=False)
    whole = b"".join((bundle.path / relative).read_bytes() for relative in bundle.manifest.files)
    return [whole[start : start + CHUNK_BYTES] for start in range(0, len(whole), CHUNK_BYTES)]


if __name__ == "__main__":
    {"send": send, "take": take}[sys.argv[1]](int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
