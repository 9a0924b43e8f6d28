"""A socket of the machine that answers lines: for programs beside the agent."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import InputNotFoundError, LinesideError, RequestError

R = TypeVar("R")

ANSWER_S = 60.0
"""Longest wait for an answer."""


class LineServer(Generic[R]):
    """Answers the JSON object in each line of each connection, a thread a connection.

    Args:
        path: Of the socket; one that a killed process has left is replaced.
        kind: Class of the requests.
        ask: Returns the answer; a `LinesideError` is sent as ``error``, ``code`` and ``action``.
        line_max: Longest line in bytes.
    """

    def __init__(self, path: Path, kind: type[R], ask: Callable[[R], object], *, line_max: int) -> None:
        self._path, self._kind, self._ask, self._line_max = path, kind, ask, line_max
        self._server: socketserver.ThreadingUnixStreamServer | None = None
        self._closing = threading.Event()

    def run(self, on_open: Callable[[], None] = lambda: None) -> None:
        """Serves in the caller's thread until `close`; ``on_open`` is called when the socket is there."""
        self._path.unlink(missing_ok=True)
        answer, line_max = self._answer, self._line_max

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):  # the program has ended
                    while line := self.rfile.readline(line_max + 1):
                        if len(line) > line_max:  # what follows is no request of its own
                            self.wfile.write(answer(None) + b"\n")
                            return
                        self.wfile.write(answer(line) + b"\n")

        with socketserver.ThreadingUnixStreamServer(str(self._path), Handler) as server:
            self._path.chmod(0o660)
            server.daemon_threads = True
            self._server = server
            on_open()
            if not self._closing.is_set():
                server.serve_forever(poll_interval=0.2)
            self._server = None
        self._path.unlink(missing_ok=True)

    def _answer(self, line: bytes | None) -> bytes:
        """Answers a line; ``None`` stands for one that is too long."""
        if line is None:
            return msgspec.json.encode({"error": f"the request is longer than {self._line_max} bytes"})
        try:
            return msgspec.json.encode(self._ask(decode_json(line, type=self._kind)))
        except msgspec.DecodeError as error:
            return msgspec.json.encode({"error": str(error)})
        except LinesideError as error:
            return msgspec.json.encode({"error": error.message, "code": error.code, "action": error.action})

    def run_until(self, stop: threading.Event) -> None:
        """Serves in the caller's thread until stopped."""
        closer = threading.Thread(target=self._close_at, args=(stop,), name=f"{self._path.name} end", daemon=True)
        closer.start()
        self.run()
        closer.join()

    def _close_at(self, stop: threading.Event) -> None:
        stop.wait()
        self.close()

    def close(self) -> None:
        """Ends `run`."""
        self._closing.set()
        if self._server is not None:
            self._server.shutdown()


def ask_line(path: Path, line: bytes, *, action: str, timeout_s: float = ANSWER_S) -> dict[str, Any]:
    """Sends a line to a socket, and returns the JSON object of the answer.

    Args:
        line: Without its end.
        action: What to do if nobody listens there.

    Raises:
        InputNotFoundError: Nobody listens there.
        RequestError: The answer is an error, or the process has ended meanwhile.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(path))
            connection.sendall(line + b"\n")
            with connection.makefile("rb") as answers:
                answer = answers.readline()
        except OSError as error:
            raise InputNotFoundError(f"{path}: {error}", action=action) from error
    found: dict[str, Any] = decode_json(answer) if answer else {"error": "the agent has ended"}
    if "error" in found:
        raise RequestError(found["error"], action=found.get("action") or "See the agent's log.")
    return found
