"""Pulls metadata, targets and chunks from the hub's repository, several questions at a time."""

from __future__ import annotations

import collections
import logging
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from lineside_link.assemble import Assembly, FetchReport
from lineside_link.client import LinkClient
from lineside_link.messages import RepoRequest, RepoResponse, decode_response, encode
from lineside_link.pull import Kind, Piece, PullWindow
from lineside_link.topics import Topics
from lineside_runtime.bundle import CHUNK_BYTES, MANIFEST_MAX_BYTES, FileList
from lineside_runtime.errors import BundleIntegrityError, FetchError

log = logging.getLogger("lineside.link")

METADATA_MAX_BYTES = 8 << 20
"""No metadata file is larger: python-tuf's own largest limit is 5 MB."""

MISMATCHES_MAX = 3
"""How often a chunk with another hash is asked for again before the bundle counts as damaged at the hub."""

_POLL_S = 0.2
"""How often ``should_stop`` is looked at while nothing arrives."""

Answer = tuple[Piece, RepoResponse, bytes]


class FetchStopped(Exception):  # noqa: N818 - not an error: the caller asked for it
    """``should_stop`` said so; what has arrived is kept, and the next call goes on from there."""


def _never() -> bool:
    return False


class RepoClient:
    """The device's side of ``repo/get``. Threads may share one.

    Args:
        client: The link; not yet started, or started.
        topics: Of the site.
        device: Name of the device.
        window: How many questions may be on their way at a time; fewer than 4 leave a slow link idle.
        timeout_s: After how long without an answer a question is asked again; grows with each repetition.
        stall_s: After how long without any piece a fetch is given up.
    """

    def __init__(
        self,
        client: LinkClient,
        topics: Topics,
        device: str,
        *,
        window: int = 8,
        timeout_s: float = 5.0,
        stall_s: float = 60.0,
    ) -> None:
        self._client = client
        self._topic = topics.repo_get(device)
        self._window = window
        self._timeout_s = timeout_s
        self._stall_s = stall_s
        self._nonce = secrets.token_hex(4)
        self._arrived = threading.Condition()
        self._mailboxes: dict[str, collections.deque[tuple[RepoResponse, bytes]]] = {}
        self._pulls = 0
        self._connections = 0
        self._counters: collections.Counter[str] = collections.Counter()
        client.on_connect(self._note_connection)
        client.subscribe(topics.repo_response(device), self._receive, qos=0)

    @property
    def counters(self) -> Mapping[str, int]:
        """How often what happened: ``asked``, ``repeated``, ``busy``, ``late``, ``mismatches``, ``body_bytes``."""
        with self._arrived:
            return dict(self._counters)

    def metadata(self, path: str, max_bytes: int = METADATA_MAX_BYTES) -> bytes:
        """Fetches one of TUF's metadata files.

        Args:
            path: Such as ``timestamp.json`` or ``3.snapshot.json``.
            max_bytes: Bound of its size.

        Raises:
            FetchError: The hub has it not (``status`` 404), says that it is larger, or doesn't answer.
        """
        return b"".join(self.stream("metadata", path, max_bytes=max_bytes))

    def target(self, path: str, max_bytes: int = MANIFEST_MAX_BYTES) -> bytes:
        """Fetches a TUF target file.

        Args:
            path: By its consistent-snapshot name, ``<group>/<sha256>.<name>-<version>.json``.
            max_bytes: Bound of its size.

        Raises:
            FetchError: As for `metadata`.
        """
        return b"".join(self.stream("target", path, max_bytes=max_bytes))

    def stream(
        self, kind: Kind, path: str, *, max_bytes: int, should_stop: Callable[[], bool] = _never
    ) -> Iterator[bytes]:
        """Yields a file's pieces in order; holds at most a window of them.

        Args:
            kind: ``metadata`` or ``target``.
            path: Name of the file.
            max_bytes: Bound of the size that the hub may claim.
            should_stop: Looked at between pieces.

        Raises:
            FetchError: As for `metadata`, or the file changed while it was read.
            FetchStopped: ``should_stop`` said so.
        """
        first, body = self._one(Piece(kind, path), should_stop)
        if first.size > max_bytes:
            raise FetchError(f"{path} at the hub", expected=f"at most {max_bytes} bytes", actual=f"{first.size} bytes")
        yield body
        parts = -(-first.size // CHUNK_BYTES)
        for start in range(1, parts, self._window):
            wanted = [Piece(kind, path, part) for part in range(start, min(start + self._window, parts))]
            bodies: dict[int, bytes] = {}
            for piece, head, body in self.pull(collections.deque(wanted), should_stop=should_stop):
                if head.size != first.size:
                    raise FetchError(f"{path} changed while it was read", expected=first.size, actual=head.size)
                bodies[piece.part] = body
            yield from (bodies[piece.part] for piece in wanted)

    def _one(self, piece: Piece, should_stop: Callable[[], bool]) -> tuple[RepoResponse, bytes]:
        with closing(self.pull(collections.deque([piece]), should_stop=should_stop)) as answers:
            _, head, body = next(answers)
        return head, body

    def fetch_files(
        self,
        manifest: FileList,
        folder: Path,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] = _never,
    ) -> FetchReport:
        """Brings every file that the manifest names into ``folder``, each chunk checked before it is written.

        Done again after a kill it goes on: what is there already is hashed and kept. A file gets its name
        only when it is whole; the manifest itself isn't written.

        Args:
            manifest: From signed metadata, parsed by `lineside_runtime.bundle.parse_manifest`.
            folder: Where to; made if it isn't there.
            on_progress: Takes the bytes that are there and the bytes that there will be.
            should_stop: Looked at at least five times a second.

        Returns:
            What was fetched and what was there.

        Raises:
            DiskFullError: There is no room, and none of the unfinished files is left.
            FetchError: The hub has it not, or nothing arrived for the stall time; unfinished files are kept.
            BundleIntegrityError: The hub gives something else than the manifest names, also when asked again.
            FetchStopped: ``should_stop`` said so; unfinished files are kept.
        """
        assembly = Assembly(manifest, folder)
        assembly.prepare()
        mismatches: collections.Counter[str] = collections.Counter()
        wanted = collections.deque(Piece("chunk", digest) for digest in assembly.missing)
        report = on_progress or _ignore_progress
        report(assembly.done_bytes, assembly.total_bytes)
        for piece, _, body in self.pull(wanted, should_stop=should_stop):
            if assembly.put(piece.path, body):
                report(assembly.done_bytes, assembly.total_bytes)
                continue
            mismatches[piece.path] += 1
            self._note_mismatch(piece.path, mismatches[piece.path])
            wanted.append(piece)
        return assembly.finish(sum(mismatches.values()))

    def _note_mismatch(self, digest: str, times: int) -> None:
        with self._arrived:
            self._counters["mismatches"] += 1
        log.warning("chunk %s arrived with another hash, %d of %d times", digest, times, MISMATCHES_MAX + 1)
        if times > MISMATCHES_MAX:
            raise BundleIntegrityError(
                f"chunk {digest} arrived {times} times with another hash",
                action="The hub's store or the way to it is damaged: publish the bundle again and push it.",
            )

    def pull(
        self, wanted: collections.deque[Piece], *, should_stop: Callable[[], bool] = _never
    ) -> Generator[Answer, None, None]:
        """Asks for pieces and yields the answers as they arrive.

        Args:
            wanted: What to ask for. What is appended while the pull runs is asked for as well.
            should_stop: Looked at at least five times a second.

        Raises:
            FetchError: The hub has one of them not, or nothing arrived for the stall time.
            FetchStopped: ``should_stop`` said so.
        """
        prefix, mailbox = self._open_mailbox()
        window = PullWindow((), window=self._window, timeout_s=self._timeout_s, prefix=prefix)
        window.wanted = wanted
        connections = self._connections
        progress_at_s = time.monotonic()
        try:
            while not window.done:
                self._check_going(should_stop, progress_at_s, window)
                if connections != self._connections:
                    connections = self._connections
                    window.ask_all_again(time.monotonic())
                self._send_due(window)
                answer = self._take(mailbox, window, prefix)
                if answer is not None:
                    progress_at_s = time.monotonic()
                    yield answer
        finally:
            self._close_mailbox(prefix, window)

    def _check_going(self, should_stop: Callable[[], bool], progress_at_s: float, window: PullWindow) -> None:
        if should_stop():
            raise FetchStopped
        if time.monotonic() - progress_at_s > self._stall_s:
            raise FetchError(
                f"nothing arrived from the hub for {self._stall_s:g} s",
                actual=f"{window.in_flight} questions open, "
                f"{'connected to' if self._client.connected else 'no connection to'} the broker",
            )

    def _send_due(self, window: PullWindow) -> None:
        if not self._client.connected:
            return
        for request_id, piece in window.due(time.monotonic()):
            request = RepoRequest(id=request_id, kind=piece.kind, path=piece.path, part=piece.part)
            if self._client.publish(self._topic, encode(request), qos=0):
                with self._arrived:
                    self._counters["asked"] += 1

    def _take(
        self, mailbox: collections.deque[tuple[RepoResponse, bytes]], window: PullWindow, prefix: str
    ) -> Answer | None:
        with self._arrived:
            if not mailbox:
                due_s = window.next_due_s(time.monotonic()) if self._client.connected else _POLL_S
                self._arrived.wait(min(max(due_s, 0.01), _POLL_S))
            if not mailbox:
                return None
            head, body = mailbox.popleft()
        now_s = time.monotonic()
        if head.status == 503:
            window.refused_busy(head.id, now_s)
            return None
        piece = window.answered(head.id, now_s)
        if piece is None:
            with self._arrived:
                self._counters["late"] += 1
            return None
        _check_answer(piece, head, body)
        return piece, head, body

    def _open_mailbox(self) -> tuple[str, collections.deque[tuple[RepoResponse, bytes]]]:
        with self._arrived:
            self._pulls += 1
            prefix = f"{self._nonce}-{self._pulls}"
            # What is asked for at a time bounds what arrives; an answer that nobody asked for must not fill memory.
            mailbox = self._mailboxes[prefix] = collections.deque(maxlen=4 * self._window)
        return prefix, mailbox

    def _close_mailbox(self, prefix: str, window: PullWindow) -> None:
        with self._arrived:
            del self._mailboxes[prefix]
            self._counters["repeated"] += window.repeated
            self._counters["busy"] += window.busy

    # In the handlers' thread.

    def _receive(self, _topic: str, payload: bytes) -> None:
        head, body = decode_response(payload)
        with self._arrived:
            mailbox = self._mailboxes.get(head.id.rpartition("-")[0])
            if mailbox is None:
                self._counters["late"] += 1
                return
            self._counters["body_bytes"] += len(body)
            mailbox.append((head, body))
            self._arrived.notify_all()

    def _note_connection(self) -> None:
        with self._arrived:
            self._connections += 1
            self._arrived.notify_all()


def _ignore_progress(_done: int, _total: int) -> None:
    """The caller doesn't want to know."""


def _check_answer(piece: Piece, head: RepoResponse, body: bytes) -> None:
    if head.status == 404:
        raise FetchError(
            f"the hub has no {piece.kind} {piece.path}",
            status=404,
            action="Publish the bundle at the hub again, then push it.",
        )
    if head.status != 200 or head.part != piece.part or len(body) > CHUNK_BYTES:
        raise FetchError(
            f"answer of the hub for {piece.kind} {piece.path}",
            status=head.status,
            expected=f"status 200, part {piece.part}, at most {CHUNK_BYTES} bytes",
            actual=f"status {head.status}, part {head.part}, {len(body)} bytes",
            action="Update the older of hub and device.",
        )
