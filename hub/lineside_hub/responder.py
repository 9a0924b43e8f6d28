"""`Responder`: answers the devices' requests to the repository, in threads of its own.

A request names a file by kind and by a name that is matched against a closed form before any path is made
of it, so nothing outside ``metadata``, ``targets`` and ``chunks`` can be reached.
"""

from __future__ import annotations

import collections
import logging
import queue
import re
import threading
from collections.abc import Callable
from pathlib import Path

from lineside_hub.repository import Repository
from lineside_link.messages import RepoRequest, RepoResponse, decode, encode_response
from lineside_link.topics import NAME
from lineside_runtime.bundle import CHUNK_BYTES
from lineside_runtime.errors import BadInputFormatError

_log = logging.getLogger("lineside.hub.responder")

WAITING_MAX = 1000
"""Requests that may wait; beyond it the answer is 503. A device has a handful in flight."""

THREADS = 2

FILE_MAX_BYTES = 16 << 20
"""No metadata or manifest is anywhere near; a larger file is not served."""

_METADATA = re.compile(rf"timestamp\.json|[1-9][0-9]{{0,9}}\.{NAME.pattern}\.json")
_TARGET = re.compile(rf"({NAME.pattern})/([0-9a-f]{{64}}\.[A-Za-z0-9][A-Za-z0-9._-]{{0,160}}\.json)")
_CHUNK = re.compile(r"[0-9a-f]{64}")


class Responder:
    """Serves one repository.

    Args:
        repository: What to serve from.
        answer: Called in a worker's thread with a device and the payload for it; says whether it was sent.

    Attributes:
        counters: ``requests``, ``served``, ``not_found``, ``busy``, ``malformed``, ``not_sent``, ``bytes``.
    """

    def __init__(self, repository: Repository, answer: Callable[[str, bytes], bool]) -> None:
        self.counters: collections.Counter[str] = collections.Counter()
        self._repository = repository
        self._answer = answer
        self._waiting: queue.Queue[tuple[str, RepoRequest] | None] = queue.Queue(WAITING_MAX)
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name=f"hub-repository-{number}", daemon=True)
            for number in range(THREADS)
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Ends the threads after what waits."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(timeout_s)

    def offer(self, device: str, payload: bytes) -> None:
        """Takes a request; never waits for the disk.

        Raises:
            BadInputFormatError: It is no request.
        """
        self._count("requests")
        try:
            request = decode(payload, RepoRequest)
        except BadInputFormatError:
            self._count("malformed")
            raise
        try:
            self._waiting.put_nowait((device, request))
        except queue.Full:
            self._count("busy")
            self._send(device, RepoResponse(id=request.id, status=503, part=request.part), b"")

    def respond(self, request: RepoRequest) -> tuple[RepoResponse, bytes]:
        """Returns the answer to a request: 200 with one piece, or 404."""
        whole = self._read(request)
        parts = max(1, -(-len(whole) // CHUNK_BYTES)) if whole is not None else 0
        if whole is None or not 0 <= request.part < parts:
            self._count("not_found")
            return RepoResponse(id=request.id, status=404, part=request.part), b""
        piece = whole[request.part * CHUNK_BYTES : (request.part + 1) * CHUNK_BYTES]
        self._count("served")
        self._count("bytes", len(piece))
        head = RepoResponse(id=request.id, status=200, part=request.part, parts=parts, size=len(whole))
        return head, piece

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            device, request = item
            try:
                head, body = self.respond(request)
            except OSError as error:
                _log.error("%s %r cannot be read: %s", request.kind, request.path, error)
                head, body = RepoResponse(id=request.id, status=503, part=request.part), b""
            self._send(device, head, body)

    def _send(self, device: str, head: RepoResponse, body: bytes) -> None:
        if not self._answer(device, encode_response(head, body)):
            self._count("not_sent")

    def _read(self, request: RepoRequest) -> bytes | None:
        if request.kind == "chunk":
            return self._repository.chunks.get(request.path) if _CHUNK.fullmatch(request.path) else None
        folder = self._repository.folder
        if request.kind == "metadata" and _METADATA.fullmatch(request.path):
            return _read_file(folder / "metadata" / request.path)
        match = _TARGET.fullmatch(request.path) if request.kind == "target" else None
        return _read_file(folder / "targets" / match[1] / match[2]) if match else None

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self.counters[name] += by


def _read_file(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > FILE_MAX_BYTES:
        _log.error("%s is larger than anything that belongs there and not served", path)
        return None
    return data
