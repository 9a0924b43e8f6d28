"""Clients of an operator screen in a process and a session of their own, as browsers on other machines.

``python -m benchmarks.agent.screen_clients PORT READERS STALLED`` prints ``ready`` when all streams are open, and runs
until its standard input ends; then it prints, as a JSON list, the milliseconds from each part's capture to the last
byte of its image.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import threading
import time


class Reader(threading.Thread):
    """Holds an event stream, and fetches each announced image, as the page does."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.took_ms: list[float] = []
        self.is_open = threading.Event()
        self._port = port

    def run(self) -> None:
        """Reads until the process ends."""
        stream, images = (http.client.HTTPConnection("127.0.0.1", self._port, timeout=60) for _ in range(2))
        stream.request("GET", "/events")
        answer, name = stream.getresponse(), ""
        self.is_open.set()
        while line := answer.readline().decode():
            if line.startswith("event: "):
                name = line[7:].strip()
            elif line.startswith("data: ") and name == "part":
                self._fetch(images, json.loads(line[6:]))

    def _fetch(self, images: http.client.HTTPConnection, part: dict[str, int]) -> None:
        images.request("GET", f"/parts/{part['number']}/0.jpg")
        got = images.getresponse()
        got.read()
        if got.status == 200:
            self.took_ms.append((time.time_ns() - part["captured_at_ns"]) / 1e6)


def stall(port: int) -> socket.socket:
    """Opens an event stream and does not read it."""
    stalled = socket.create_connection(("127.0.0.1", port))
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    stalled.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return stalled


def main(port: int, readers: int, stalled: int) -> None:
    """Runs the clients until standard input ends."""
    with contextlib.ExitStack() as stack:
        for _ in range(stalled):
            stack.enter_context(stall(port))
        threads = [Reader(port) for _ in range(readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.is_open.wait(60)
        print("ready", flush=True)
        sys.stdin.read()
        print(json.dumps([took for thread in threads for took in thread.took_ms]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
