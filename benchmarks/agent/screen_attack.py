"""Hostile clients of an operator screen, in a process and a session of their own.

``python -m benchmarks.agent.screen_attack PORT CONNECTIONS`` runs until its standard input ends. It keeps so many
connections open from one address, of which half send half a request and half open a stream and read nothing of it, and
opens each again that is closed. Beside them it sends oversized bodies, wrong hosts, a stolen cookie and malformed
requests, one after the other. At the end it prints, as JSON, how many answers had which status.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import resource
import socket
import sys
import threading

ADDRESS = "127.0.0.2"

REQUESTS: tuple[tuple[str, str, bytes, dict[str, str]], ...] = (
    ("POST", "/mark", b'{"source": "' + b"x" * 100_000 + b'"}', {"Content-Type": "application/json"}),
    ("GET", "/", b"", {"Host": "evil.example"}),
    ("POST", "/session", b'{"name": "Sara", "pin": "0000"}', {"Content-Type": "application/json"}),
    ("GET", "/actions", b"", {"Cookie": "lineside_session=stolen"}),
    ("GET", "/record?source=../../people&sequence=1", b"", {}),
    ("POST", "/line", b"{", {"Content-Type": "application/json"}),
)

LOOK_S = 0.05


class ConnectionFlood(threading.Thread):
    """Keeps many connections open from one address."""

    def __init__(self, port: int, count: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.opened = 0
        self._port = port
        self._count = count
        self._stop_event = stop

    def run(self) -> None:
        """Runs until it is stopped."""
        held: list[socket.socket] = []
        while not self._stop_event.wait(LOOK_S):
            held = [one for one in held if not _is_closed(one)]
            for number in range(min(100, self._count - len(held))):
                with contextlib.suppress(OSError):
                    opened = socket.create_connection(("127.0.0.1", self._port), 5, (ADDRESS, 0))
                    opened.setblocking(False)
                    opened.send(
                        b"GET / HTTP/1.1\r\nX-Slow: " if number % 2 else b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n"
                    )
                    held.append(opened)
                    self.opened += 1
        for one in held:
            one.close()


def _is_closed(one: socket.socket) -> bool:
    """Whether the other side has closed a connection; what it sent before is left unread."""
    try:
        return one.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _status_of(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> str:
    """Returns the status of the answer to a request."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request(method, path, body or None, headers)
            return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException):
        return "closed"


def main(port: int, connections: int) -> None:
    """Attacks until standard input ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stop, statuses = threading.Event(), collections.Counter[str]()
    flood = ConnectionFlood(port, connections, stop)
    flood.start()

    def wait_for_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    while not stop.is_set():
        for request in REQUESTS:
            statuses[_status_of(port, *request)] += 1
    flood.join(10)
    print(json.dumps({"connections": flood.opened, "answers": dict(statuses)}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
