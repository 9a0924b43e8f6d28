"""Fetch metadata, targets and chunks from the hub's repository, several requests at a time."""

from __future__ import annotations

import collections
import logging
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing

from lineside_link.client.client import LinkClient
from lineside_link.messages import Deltas, Multicast, RepoRequest, RepoResponse, decode, decode_framed, encode
from lineside_link.topics import Topics
from lineside_link.transfer.multicast import HEADROOM, Listener
from lineside_link.transfer.pace import WINDOW_MAX, RequestPace
from lineside_link.transfer.pull_window import FetchStopped, PullWindow, RequestedPiece, RequestKind
from lineside_runtime.bundle import CHUNK_BYTES
from lineside_runtime.errors import FetchError

log = logging.getLogger("lineside.link")

METADATA_MAX_BYTES = 8 << 20
"""No metadata file is larger: python-tuf's own largest limit is 5 MB."""

_POLL_S = 0.2
"""How often ``should_stop`` is called while nothing arrives."""

_TAKEN_AT_ONCE = 8
"""Answers that are handled before new requests are sent: half a megabyte of chunks."""

_DELTA_POLL_S = 0.5
"""Pause between requests for patches that are being made."""

Answer = tuple[RequestedPiece, RepoResponse, memoryview]


def _never() -> bool:
    return False


class RepoClient:
    """The device's side of ``repo/get``. Threads may share one.

    Args:
        client: Started or not yet started.
        window: Number of open requests until the rate of the link is known.
        timeout_s: Time without an answer before a request is repeated; grows with each repetition.
        stall_s: A fetch fails after so long without any piece.
        delta_wait_s: How long to wait for patches before files are fetched whole.
        multicast: Whether to take part in multicasts; a link that is too slow never takes part.

    Attributes:
        pace: Size of pieces and window for the measured link.
        knows: Features of the hub.
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
        delta_wait_s: float = 20.0,
        multicast: bool = True,
    ) -> None:
        self.pace = RequestPace(window)
        self.knows: frozenset[str] = frozenset()
        self._client = client
        self._topic = topics.repo_get(device)
        self._window = window
        self._delta_wait_s = delta_wait_s
        self._multicast = multicast
        self._sent_bytes_s = 0
        self._topics = topics
        self._timeout_s = timeout_s
        self._stall_s = stall_s
        self._nonce = secrets.token_hex(4)
        self._arrived = threading.Condition()
        self._mailboxes: dict[str, collections.deque[tuple[RepoResponse, memoryview]]] = {}
        self._pulls = 0
        self._connections = 0
        self._counters: collections.Counter[str] = collections.Counter()
        client.on_socket_open(self._note_connection)
        client.subscribe_direct(topics.repo_response(device), self._receive)

    @property
    def counters(self) -> Mapping[str, int]:
        """Counts: ``asked``, ``repeated``, ``busy``, ``late``, ``mismatches``, ``body_bytes``."""
        with self._arrived:
            return dict(self._counters)

    def metadata(self, path: str, max_bytes: int = METADATA_MAX_BYTES) -> bytes:
        """Fetches one of TUF's metadata files.

        Args:
            path: Such as ``timestamp.json`` or ``3.snapshot.json``.

        Raises:
            FetchError: The hub does not have it (``status`` 404) or does not answer, or it is larger.
        """
        return b"".join(self.stream("metadata", path, max_bytes=max_bytes))

    def stream(
        self, kind: RequestKind, path: str, *, max_bytes: int, should_stop: Callable[[], bool] = _never
    ) -> Iterator[bytes]:
        """Yields a file's pieces in order, with at most a window of them in memory.

        Args:
            should_stop: Called between pieces.

        Raises:
            FetchError: As for `metadata`, or the file changed while it was read.
        """
        first, start_of_it = self._one(RequestedPiece(kind, path), should_stop)
        if first.size > max_bytes:
            raise FetchError(f"{path} at the hub", expected=f"at most {max_bytes} bytes", actual=f"{first.size} bytes")
        yield start_of_it
        parts = -(-first.size // CHUNK_BYTES)
        for start in range(1, parts, self._window):
            wanted = [RequestedPiece(kind, path, part) for part in range(start, min(start + self._window, parts))]
            bodies: dict[int, bytes] = {}
            for piece, head, body in self.pull(collections.deque(wanted), should_stop=should_stop):
                if head.size != first.size:
                    raise FetchError(f"{path} changed while it was read", expected=first.size, actual=head.size)
                bodies[piece.part] = bytes(body)
            yield from (bodies[piece.part] for piece in wanted)

    def _one(self, piece: RequestedPiece, should_stop: Callable[[], bool]) -> tuple[RepoResponse, bytes]:
        with closing(self.pull(collections.deque([piece]), should_stop=should_stop)) as answers:
            _, head, body = next(answers)
        return head, bytes(body)

    def deltas(self, wanted: str, *, base: str, whole_bytes: int, should_stop: Callable[[], bool] = _never) -> Deltas:
        """Requests the patches from one bundle to another.

        Args:
            wanted: sha256 of the wanted bundle's manifest.
            base: sha256 of the installed bundle's manifest; empty for none.
            whole_bytes: Bytes without patches: waiting takes no longer than fetching these.

        Returns:
            The hub's patches; none if it is older, does not know one of the bundles, or takes too long.

        Raises:
            FetchError: The hub does not answer, or with something else.
        """
        if "deltas" not in self.knows:
            return Deltas()
        rate = self.pace.rate_bytes_s
        wait_s = min(self._delta_wait_s, whole_bytes / rate) if rate else self._delta_wait_s
        until_s = time.monotonic() + wait_s
        while True:
            head, data = self._document(RequestedPiece("deltas", wanted, base=base), should_stop)
            if head.status == 200:
                return decode(data, Deltas)
            if head.status == 404 or time.monotonic() >= until_s:
                log.warning("no patches from the hub (%d, waited up to %.1f s): files come whole", head.status, wait_s)
                return Deltas()
            self._sleep(min(_DELTA_POLL_S, max(0.01, until_s - time.monotonic())), should_stop)

    def join(self, wanted: str, *, base: str, should_stop: Callable[[], bool] = _never) -> Multicast | None:
        """Requests a multicast of a bundle; returns the announcement; ``None`` if the hub does not multicast.

        Args:
            wanted: sha256 of its manifest.
            base: sha256 of the installed bundle's manifest; empty for none.

        Raises:
            FetchError: The hub doesn't answer.
        """
        head, body = self._one(RequestedPiece("multicast", wanted, base=base), should_stop)
        return decode(body, Multicast) if head.status == 200 else None

    def wants_multicast(self) -> bool:
        """Whether to request a multicast: it is allowed, the hub supports it, and the link is fast enough."""
        rate = self.pace.rate_bytes_s
        slow = rate is not None and rate < HEADROOM * self._sent_bytes_s
        return self._multicast and "multicast" in self.knows and not slow

    def listen(self, target: str) -> Listener:
        """Returns the listener for the multicast of a target.

        Args:
            target: ``<group>/<name>-<version>.json``.
        """
        return Listener(self._client, self._topics, target)

    def _document(self, piece: RequestedPiece, should_stop: Callable[[], bool]) -> tuple[RepoResponse, bytes]:
        """Fetches an answer of one or several parts."""
        head, body = self._one(piece, should_stop)
        if head.status != 200 or head.parts == 1:
            return head, body
        if head.size > METADATA_MAX_BYTES:
            raise FetchError(
                f"{piece.kind} at the hub", expected=f"at most {METADATA_MAX_BYTES} bytes", actual=head.size
            )
        rest = collections.deque(piece._replace(part=part) for part in range(1, head.parts))
        bodies = {answer.part: data for answer, _, data in self.pull(rest, should_stop=should_stop)}
        return head, b"".join([body, *(bodies[part] for part in sorted(bodies))])

    def _sleep(self, pause_s: float, should_stop: Callable[[], bool]) -> None:
        until_s = time.monotonic() + pause_s
        with self._arrived:
            while (left_s := until_s - time.monotonic()) > 0:
                if should_stop():
                    raise FetchStopped
                self._arrived.wait(min(left_s, _POLL_S))

    @property
    def piece_bytes(self) -> int:
        """Size of the pieces of chunks."""
        return self.pace.piece_bytes if "pieces" in self.knows else CHUNK_BYTES

    def count_mismatch(self) -> None:
        """Counts a chunk that arrived with another hash."""
        with self._arrived:
            self._counters["mismatches"] += 1

    def pull(
        self, wanted: collections.deque[RequestedPiece], *, should_stop: Callable[[], bool] = _never
    ) -> Generator[Answer, None, None]:
        """Requests pieces and yields the answers as they arrive.

        Args:
            wanted: Pieces; may be appended to while the pull runs.

        Raises:
            FetchError: The hub does not have one of them, or nothing arrived for the stall time.
        """
        prefix, mailbox = self._open_mailbox()
        window = PullWindow((), window=self.pace.window, timeout_s=self._timeout_s, prefix=prefix)
        window.wanted = wanted
        connections = self._connections
        progress_at_s = time.monotonic()
        self.pace.begin(progress_at_s)
        try:
            while not window.done:
                self._check_going(should_stop, progress_at_s, window)
                if connections != self._connections:
                    connections = self._connections
                    self.pace.broke()
                    window.ask_all_again(time.monotonic())
                self._send_due(window)
                for answer in self._take(mailbox, window):
                    progress_at_s = time.monotonic()
                    if answer[0].kind == "chunk":  # others are too small to measure
                        self.pace.arrived(len(answer[2]), progress_at_s)
                    yield answer
                window.window = self.pace.window
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
        if not self._client.can_request:
            return
        batches = "batches" in self.knows
        # Only on a fast link do requests cost more than waiting for a batch.
        window.batch = WINDOW_MAX // 4 if batches and window.window == WINDOW_MAX else 1
        due = [encode(_request(*asked)) for asked in window.due(time.monotonic())]
        for payload in [b"\n".join(due)] if due and batches else due:
            if self._client.ask(self._topic, payload):
                with self._arrived:
                    self._counters["asked"] += payload.count(b"\n") + 1

    def _take(
        self, mailbox: collections.deque[tuple[RepoResponse, memoryview]], window: PullWindow
    ) -> Iterator[Answer]:
        """Waits for answers and yields some of them."""
        with self._arrived:
            if not mailbox:
                due_s = window.next_due_s(time.monotonic()) if self._client.can_request else _POLL_S
                self._arrived.wait(min(max(due_s, 0.01), _POLL_S))
            here = [mailbox.popleft() for _ in range(min(len(mailbox), _TAKEN_AT_ONCE))]
        now_s = time.monotonic()
        for head, body in here:
            if head.status == 503:
                window.refused_busy(head.id, now_s)
                continue
            piece = window.answered(head.id, now_s)
            if piece is None:
                with self._arrived:
                    self._counters["late"] += 1
                continue
            _check_answer(piece, head, body)
            yield piece, head, body

    def _open_mailbox(self) -> tuple[str, collections.deque[tuple[RepoResponse, memoryview]]]:
        with self._arrived:
            self._pulls += 1
            prefix = f"{self._nonce}-{self._pulls}"
            # Open requests bound the answers; unrequested ones must not fill the memory.
            mailbox = self._mailboxes[prefix] = collections.deque(maxlen=2 * WINDOW_MAX)
        return prefix, mailbox

    def _close_mailbox(self, prefix: str, window: PullWindow) -> None:
        with self._arrived:
            del self._mailboxes[prefix]
            self._counters["repeated"] += window.repeated
            self._counters["busy"] += window.busy

    # In the link's threads.

    def _receive(self, _topic: str, payload: bytes | bytearray) -> None:
        head, body = decode_framed(payload, RepoResponse)
        with self._arrived:
            mailbox = self._mailboxes.get(head.id.rpartition("-")[0])
            if mailbox is None:
                self._counters["late"] += 1
                return
            self._counters["body_bytes"] += len(body)
            if head.knows:
                self.knows = frozenset(head.knows)
                self._sent_bytes_s = head.multicast_bytes_s
            mailbox.append((head, body))
            self._arrived.notify_all()

    def _note_connection(self) -> None:
        with self._arrived:
            self._connections += 1
            self._arrived.notify_all()


def _request(request_id: str, piece: RequestedPiece) -> RepoRequest:
    return RepoRequest(
        id=request_id,
        kind=piece.kind,
        path=piece.path,
        part=piece.part,
        piece=piece.size,
        base=piece.base,
        damaged=piece.damaged,
    )


def _check_answer(piece: RequestedPiece, head: RepoResponse, body: memoryview) -> None:
    if head.status == 404 and piece.kind in ("deltas", "multicast"):
        return
    if head.status == 404:
        raise FetchError(
            f"the hub has no {piece.kind} {piece.path}",
            status=404,
            action="Publish the bundle at the hub again, then push it.",
        )
    if head.status == 202 and piece.kind in ("deltas", "multicast"):
        return
    if head.status != 200 or head.part != piece.part or len(body) > CHUNK_BYTES:
        raise FetchError(
            f"answer of the hub for {piece.kind} {piece.path}",
            status=head.status,
            expected=f"status 200, part {piece.part}, at most {CHUNK_BYTES} bytes",
            actual=f"status {head.status}, part {head.part}, {len(body)} bytes",
            action="Update the older of hub and device.",
        )
