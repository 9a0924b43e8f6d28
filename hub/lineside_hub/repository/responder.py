"""Answer the devices' requests to the repository.

The name in a request must match a fixed pattern before it becomes a path, so that nothing outside ``metadata``,
``targets`` and ``chunks`` can be read.
"""

from __future__ import annotations

import collections
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES

from lineside_hub.repository.deltas import DeltaMaker
from lineside_hub.repository.pacing import DEVICE_WAITING_MAX, FairQueue
from lineside_hub.repository.repository import Repository
from lineside_link.messages import FEATURES, RepoRequest, RepoResponse, decode, encode_framed
from lineside_link.topics import NAME
from lineside_link.transfer.pace import PIECE_MIN_BYTES
from lineside_runtime.bundle import CHUNK_BYTES
from lineside_runtime.errors import BadInputFormatError, DatabaseError

_log = logging.getLogger("lineside.hub.responder")

THREADS = 2

FILE_MAX_BYTES = 16 << 20
"""A larger file is not served; metadata and manifests are much smaller."""

FOREIGN_MAX = 1000
"""Largest number of pairs of device and group whose refusal is logged, each once."""

_METADATA = re.compile(rf"timestamp\.json|[1-9][0-9]{{0,9}}\.{NAME.pattern}\.json")
_ROLE = re.compile(rf"[0-9]+\.({NAME.pattern})\.json")
_TARGET = re.compile(rf"({NAME.pattern})/([0-9a-f]{{64}}\.[A-Za-z0-9][A-Za-z0-9._-]{{0,160}}\.(?:json|toml))")
_CHUNK = re.compile(r"[0-9a-f]{64}")


class Responder:
    """Serves one repository.

    Args:
        answer: Called in a worker's thread with a device, head and body; returns whether they were sent.
        queue: Waiting requests; without limits if not given.
        maker: Makes patches; ``None`` for no patches.
        join: Takes a request for a multicast, which `reply` answers later; ``None`` for no multicast.
        multicast_bytes_s: Rate of multicasts, so that slow devices do not join.
        group_of: Returns the group that a device is enrolled for, ``None`` if it is not enrolled. An enrolled device
            does not get metadata and targets of other groups.

    Attributes:
        counters: ``requests``, ``served``, ``not_found``, ``busy``, ``malformed``, ``foreign`` (another group's),
            ``not_sent``, ``bytes``.
    """

    def __init__(
        self,
        repository: Repository,
        answer: Callable[[str, bytes, bytes], bool],
        *,
        queue: FairQueue | None = None,
        maker: DeltaMaker | None = None,
        join: Callable[[str, RepoRequest], None] | None = None,
        multicast_bytes_s: int = 0,
        group_of: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self.counters: collections.Counter[str] = collections.Counter()
        self.queue = FairQueue() if queue is None else queue  # an empty queue is false
        self._repository = repository
        self._answer = answer
        self._maker = maker
        self._join = join
        self._multicast_bytes_s = multicast_bytes_s
        self._group_of = group_of
        self._foreign: set[tuple[str, str]] = set()
        offered = {"batches": True, "pieces": True, "deltas": maker is not None, "multicast": join is not None}
        self._knows = tuple(name for name in FEATURES if offered[name])
        self._changed = threading.Condition()
        self._closing = False
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
        """Ends the threads after the answers that may be sent now; devices repeat the other requests."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout_s)

    def offer(self, device: str, payload: bytes) -> None:
        """Queues a message of one or several requests, separated by newlines; never waits for the disk."""
        requests: list[RepoRequest] = []
        try:
            for line in payload.split(b"\n", DEVICE_WAITING_MAX):
                self._count("requests")
                requests.append(decode(line, RepoRequest))
        except BadInputFormatError:
            self._count("malformed")
            raise
        finally:
            self._take(device, requests)

    def _take(self, device: str, requests: list[RepoRequest]) -> None:
        requests = [request for request in requests if not self._refuse_foreign(device, request)]
        joining = [request for request in requests if request.kind == "multicast" and self._join is not None]
        for request in joining:
            if self._join is not None:
                self._join(device, request)
        with self._changed:
            refused = [item for item in requests if item not in joining and not self.queue.offer(device, item)]
            if self.queue.another:  # a thread that answers this device sees its further requests
                self._changed.notify()
        for request in refused:
            self._count("busy")
            self.reply(device, RepoResponse(id=request.id, status=503, part=request.part))

    def _refuse_foreign(self, device: str, request: RepoRequest) -> bool:
        """Answers a request for files of another group with 404; returns whether it was one."""
        named, enrolled = _group_named(request), self._group_of(device)
        if not named or enrolled is None or named == enrolled:
            return False
        self._count("foreign")
        if (device, named) not in self._foreign and len(self._foreign) < FOREIGN_MAX:
            self._foreign.add((device, named))
            _log.warning("%s, enrolled for %r, asked for files of group %r: refused", device, enrolled, named)
        self.reply(device, RepoResponse(id=request.id, status=404, part=request.part))
        return True

    def respond(self, request: RepoRequest) -> tuple[RepoResponse, bytes]:
        """Returns the answer to a request: 200 with one piece, 202 while patches are being made, or 404."""
        if request.kind == "deltas":
            status, whole = self._maker.get(request.path, request.base) if self._maker else (404, b"")
            if status == 202:
                return RepoResponse(id=request.id, status=202), b""
            return self._cut(request, whole if status == 200 else None)
        return self._cut(request, self._read(request))

    def _cut(self, request: RepoRequest, whole: bytes | None) -> tuple[RepoResponse, bytes]:
        size = request.piece if request.kind == "chunk" else CHUNK_BYTES
        parts = max(1, -(-len(whole) // size)) if whole is not None and PIECE_MIN_BYTES <= size <= CHUNK_BYTES else 0
        if whole is None or not 0 <= request.part < parts:
            self._count("not_found")
            return RepoResponse(id=request.id, status=404, part=request.part), b""
        piece = whole if parts == 1 else whole[request.part * size : (request.part + 1) * size]
        self._count("served")
        self._count("bytes", len(piece))
        head = RepoResponse(id=request.id, status=200, part=request.part, parts=parts, size=len(whole))
        if request.kind == "metadata":
            head = msgspec.structs.replace(head, knows=self._knows, multicast_bytes_s=self._multicast_bytes_s)
        return head, piece

    def note_sent_to_all(self, count: int) -> float:
        """Counts multicast bytes against the hub's rate; returns the seconds until more may be sent.

        Args:
            count: Bytes.
        """
        with self._changed:
            return self.queue.sent_to_all(count, time.monotonic())

    def _run(self) -> None:
        sent = None
        while (turn := self._next(sent)) is not None:
            device, requests = turn
            sent = device, sum(self._serve(device, request) for request in requests)

    def _serve(self, device: str, request: RepoRequest) -> int:
        """Answers a request; returns the number of bytes."""
        try:
            head, body = self.respond(request)
        except (OSError, DatabaseError) as error:
            _log.error("%s %r cannot be read: %s", request.kind, request.path, error)
            head, body = RepoResponse(id=request.id, status=503, part=request.part), b""
        self.reply(device, head, body)
        return len(body)

    def _next(self, sent: tuple[str, int] | None) -> tuple[str, list[RepoRequest]] | None:
        """Counts the sent bytes and waits for the next requests that may be answered; ``None`` at the end."""
        with self._changed:
            if sent is not None:
                self.queue.sent(sent[0], sent[1], time.monotonic())
            while True:
                turn = self.queue.take(time.monotonic())
                if isinstance(turn, tuple):
                    if self.queue.another:
                        self._changed.notify()
                    return turn
                if self._closing:
                    return None
                self._changed.wait(turn)

    def reply(self, device: str, head: RepoResponse, body: bytes = b"") -> None:
        """Sends an answer."""
        if not self._answer(device, encode_framed(head), body):
            self._count("not_sent")

    def _read(self, request: RepoRequest) -> bytes | None:
        if request.kind == "chunk":
            return self._read_chunk(request) if _CHUNK.fullmatch(request.path) else None
        layout = self._repository.layout
        if request.kind == "metadata" and _METADATA.fullmatch(request.path):
            return _read_file(layout.metadata / request.path)
        match = _TARGET.fullmatch(request.path) if request.kind == "target" else None
        return _read_file(layout.targets / match[1] / match[2]) if match else None

    def _read_chunk(self, request: RepoRequest) -> bytes | None:
        """Reads a chunk; its hash is only checked here if the device reports it as damaged."""
        chunks = self._repository.chunks
        return chunks.get(request.path) if request.damaged else chunks.get_unchecked(request.path)

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self.counters[name] += by


def _group_named(request: RepoRequest) -> str:
    """Returns the group in the path of a request; empty for files of no group and for hashes."""
    if request.kind == "target":
        return request.path.partition("/")[0]
    match = _ROLE.fullmatch(request.path) if request.kind == "metadata" else None
    return match[1] if match and match[1] not in TOP_LEVEL_ROLE_NAMES else ""


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
