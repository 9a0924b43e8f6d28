"""Multicast the chunks of a target to all devices that request them at about the same time.

::

    first device joins ──► gathering ──► enough devices? ──► sending, paced ──► end
                                     └─► no: each device requests its chunks itself

Devices with the same installed bundle are sent patches, those without any are sent whole files. A device requests gaps
afterwards; one that joins during the first half of a multicast takes part from there on.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lineside_hub.config import HubTransferConfig
from lineside_hub.repository.deltas import DIGEST, DeltaMaker
from lineside_hub.repository.layout import RepositoryLayout, target_of
from lineside_hub.repository.repository import Repository
from lineside_link.messages import Deltas, Multicast, RepoRequest, RepoResponse, decode, encode
from lineside_link.transfer.multicast import END
from lineside_runtime.bundle import Manifest, parse_manifest
from lineside_runtime.errors import LinesideError

_log = logging.getLogger("lineside.hub.multicast")

WAITING_MAX = 10_000
"""Requests that may wait."""

RETRY_S = 0.1
"""Pause before a chunk is sent again after the link refused it."""

RETRY_MAX_S = 30.0

_Key = tuple[str, str, str]
"""sha256 of the wanted and of the installed manifest, and the group of the devices; empty if it is not known."""


@dataclasses.dataclass(slots=True)
class _Gathering:
    until_s: float
    joined: dict[str, RepoRequest]


Reply = Callable[[str, RepoResponse, bytes], None]
Send = Callable[[str, str, bytes], bool]


class Multicaster:
    """Gathers and multicasts in a thread, one target after the other.

    Args:
        config: Number of devices, waiting time and rate.
        send: Publishes a chunk (target, name, content); false if the link refuses it.
        pace: Counts bytes against the hub's rate; returns the seconds until more may be sent.
        group_of: Returns the group that a device is enrolled for. It gets no bundle of another group, and hears only
            what is sent to its own.

    Attributes:
        counters: ``joined``, ``declined``, ``sendings``, ``chunks``, ``bytes``.
    """

    def __init__(
        self,
        repository: Repository,
        maker: DeltaMaker,
        config: HubTransferConfig,
        *,
        reply: Reply,
        send: Send,
        pace: Callable[[int], float],
        group_of: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self.counters: collections.Counter[str] = collections.Counter()
        self._repository = repository
        self._maker = maker
        self._config = config
        self._reply = reply
        self._send = send
        self._pace = pace
        self._group_of = group_of
        self._joins: queue.Queue[tuple[str, RepoRequest] | None] = queue.Queue(WAITING_MAX)
        self._gathering: dict[_Key, _Gathering] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hub-multicast", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; devices request the rest."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def join(self, device: str, request: RepoRequest) -> None:
        """Queues a device's request for a multicast; never waits.

        Args:
            request: Of the kind ``multicast``: ``path`` is the wanted bundle's manifest, ``base`` the installed one's.
        """
        try:
            self._joins.put_nowait((device, request))
        except queue.Full:
            self._decline(device, request)

    def _decline(self, device: str, request: RepoRequest) -> None:
        self.counters["declined"] += 1
        self._reply(device, RepoResponse(id=request.id, status=404), b"")

    def _run(self) -> None:
        while not self._closing.is_set():
            self._take_joins(0.05)
            now_s = time.monotonic()
            for key in [key for key, gathering in self._gathering.items() if gathering.until_s <= now_s]:
                self._decide(key, self._gathering.pop(key))

    def _take_joins(self, timeout_s: float) -> None:
        """Waits for a request and takes all that are queued."""
        try:
            item = self._joins.get(timeout=timeout_s) if timeout_s else self._joins.get_nowait()
            while item is not None:
                device, request = item
                self.counters["joined"] += 1
                until_s = time.monotonic() + self._config.multicast_gather_s
                key = (request.path, request.base, self._group_of(device) or "")
                self._gathering.setdefault(key, _Gathering(until_s, {})).joined[device] = request
                item = self._joins.get_nowait()
        except queue.Empty:
            return

    def _decide(self, key: _Key, gathering: _Gathering) -> None:
        digests = self._digests(*key) if len(gathering.joined) >= self._config.multicast_from else []
        if not digests:
            for device, request in gathering.joined.items():
                self._decline(device, request)
            return
        sending = Multicast(
            id=secrets.token_hex(4), chunks=len(digests), bytes_s=int(self._config.multicast_rate_bytes_s)
        )
        for device, request in gathering.joined.items():
            self._accept(device, request, sending)
        _log.info("%s: %d chunks to %d devices at once", key[0], len(digests), len(gathering.joined))
        self._send_all(key, self._target(key[0], key[2]), sending, digests)

    def _accept(self, device: str, request: RepoRequest, sending: Multicast) -> None:
        body = encode(sending)
        self._reply(device, RepoResponse(id=request.id, status=200, size=len(body)), body)

    def _send_all(self, key: _Key, target: str, sending: Multicast, digests: list[str]) -> None:
        self.counters["sendings"] += 1
        due_s = time.monotonic()
        for number, digest in enumerate(digests):
            body = self._repository.chunks.get_unchecked(digest)
            if body is None:  # lost: devices that request it get the error
                continue
            if not self._offer(target, digest, body):
                return
            self.counters["chunks"] += 1
            self.counters["bytes"] += len(body)
            due_s = max(due_s, time.monotonic() - RETRY_S) + len(body) / self._config.multicast_rate_bytes_s
            self._take_late(key, sending, early=number < len(digests) // 2)
            if self._closing.wait(max(self._pace(len(body)), due_s - time.monotonic(), 0.0)):
                return
        self._offer(target, END, encode(sending))

    def _take_late(self, key: _Key, sending: Multicast, *, early: bool) -> None:
        """Accepts late devices during the first half; others gather for the next multicast."""
        self._take_joins(0.0)
        late = self._gathering.pop(key, None) if early else None
        for device, request in late.joined.items() if late is not None else ():
            self._accept(device, request, sending)

    def _offer(self, target: str, name: str, body: bytes) -> bool:
        """Sends a chunk; false if the link refuses it for `RETRY_MAX_S`, or the hub stops."""
        until_s = time.monotonic() + RETRY_MAX_S
        while not self._send(target, name, body):
            if time.monotonic() > until_s or self._closing.wait(RETRY_S):
                _log.warning("%s: no connection, the sending is given up; devices ask for the rest", target)
                return False
        return True

    def _digests(self, wanted: str, base: str, group: str) -> list[str]:
        """Returns the chunks that a device with this base lacks, in the order of the files; none if it is unknown."""
        try:
            manifest = _manifest(self._repository.folder, wanted, group=group)
            if manifest is None:
                return []
            old = _manifest(self._repository.folder, base)
        except (OSError, LinesideError) as error:
            _log.warning("%.64s is not multicast: %s", wanted, error)
            return []
        status, data = self._maker.get(wanted, base) if base else (404, b"")
        patches = decode(data, Deltas).patches if status == 200 else ()
        patched = {patch.file: patch.chunks for patch in patches}
        there = {chunk for entry in old.files.values() for chunk in entry.chunks} if old is not None else set()
        lists = [patched.get(entry.sha256, entry.chunks) for entry in manifest.files.values()]
        return list(dict.fromkeys(chunk for chunks in lists for chunk in chunks if chunk not in there))

    def _target(self, wanted: str, group: str) -> str:
        """Returns the target of a published manifest: ``<group>/<name>-<version>.json``."""
        path = self._repository.layout.find_manifest(wanted, group=group)
        return target_of(path) if path is not None else ""


def _manifest(folder: Path, sha256: str, *, group: str = "") -> Manifest | None:
    path = RepositoryLayout(folder).find_manifest(sha256, group=group) if DIGEST.fullmatch(sha256) else None
    return parse_manifest(path.read_bytes()) if path is not None else None
