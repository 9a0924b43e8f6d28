"""The bytes of a bundle as bare messages: ``python -m benchmarks.bare_mqtt send|take PORT SIZE ROUNDS``.

paho-mqtt as its users write it, QoS 0, messages of 64 KiB, nothing verified and nothing written. ``take`` says "go" and
prints the seconds until the last byte is there, once a line on stdin.
"""

from __future__ import annotations

import sys
import threading
import time

import paho.mqtt.client as mqtt

from lineside_runtime.bundle import CHUNK_BYTES

GO, DATA = "bare/go", "bare/data"


def send(port: int, size: int) -> None:
    """Answers each "go" with all messages, until it is killed."""
    payload = bytes(CHUNK_BYTES)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    asked = threading.Semaphore(0)
    client.on_connect = lambda *_: client.subscribe(GO)
    client.on_message = lambda *_: asked.release()
    client.connect("127.0.0.1", port)
    client.loop_start()
    while True:
        asked.acquire()
        for _ in range(-(-size // CHUNK_BYTES)):
            client.publish(DATA, payload)


def take(port: int, size: int) -> None:
    """Times one transfer for each line on stdin."""
    wanted = -(-size // CHUNK_BYTES)
    received, subscribed, done = [0], threading.Event(), threading.Event()

    def count(*_: object) -> None:
        received[0] += 1
        if received[0] == wanted:
            done.set()

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_message = count
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe(DATA)
    subscribed.wait(30)
    for _ in sys.stdin:
        received[0] = 0
        done.clear()
        began = time.perf_counter()
        client.publish(GO, b"")
        done.wait(120)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    {"send": send, "take": take}[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
