"""Receive frames of devices, piece by piece.

A device offers a frame by its hash and size; the hub answers ``send`` with an offset, ``stored``, ``wait`` or
``refused``.

Invariants:

- A frame belongs to a committed result, and a result has at most one frame; the key is ``(device, epoch, seq)``.
  Offered again it is ``stored`` at once; another image for the same result is refused.
- Content is written before its row, and the row before ``stored`` is answered: the device may then delete the frame.
- The hub holds at most `WAITING_MAX` pieces in memory and one partial image a device on disk. The link's handlers never
  wait for this thread: pieces beyond that are dropped and counted, and the device repeats them.
- Results have priority on the disk: with less than ``keep_free_bytes`` free, devices are told to wait.
- Frames that retention deletes are an event, a log line and a counter.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from lineside_hub.blobs import BlobStore
from lineside_hub.config import HubConfig
from lineside_hub.results.database import Database, TimelineEvent
from lineside_hub.results.frames.image import check_head, check_image
from lineside_hub.results.frames.retention import orphans, sweep
from lineside_hub.results.frames.rows import FrameRows, ResultKey, StoredFrame, open_rows
from lineside_hub.results.frames.storage import PartialImages, frame_blobs, free_bytes
from lineside_link.age_limit import SWEEP_S
from lineside_link.messages import OFFER, FrameAnswer, FramePiece, Problem, decode_framed
from lineside_runtime.bundle import CHUNK_BYTES
from lineside_runtime.errors import BadInputFormatError, DiskFullError, FrameError, LinesideError, StoreError

_log = logging.getLogger("lineside.hub.frames")

WAITING_MAX = 256
"""Pieces that may wait; a device sends up to four at a time."""

PIECE_MAX_BYTES = CHUNK_BYTES + 2048
"""Largest message: a piece and its head."""

IDLE_S = 30.0
"""A device that has sent nothing for so long is no longer counted as uploading."""

WAIT_S, WAIT_FULL_S = 5.0, 60.0
"""How long a device waits for other uploads; for disk space or the database."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Upload(msgspec.Struct):
    """A frame that is being received."""

    key: ResultKey
    sha256: str
    size: int
    have: int
    at_s: float
    resumed: bool
    gap_reported: bool = False


class FrameInbox(threading.Thread):
    """Queue and thread of the uploads.

    Args:
        answer: Called in the thread with a device and its answer.

    Attributes:
        counters: ``pieces``, ``bytes``, ``stored``, ``repeated``, ``refused``, ``waits``, ``malformed``, ``dropped``
            (the queue was full), ``removed`` (frames, by retention), ``errors``.
    """

    def __init__(self, config: HubConfig, answer: Callable[[str, FrameAnswer], object]) -> None:
        super().__init__(name="hub-frames", daemon=True)
        self.counters: collections.Counter[str] = collections.Counter()
        self._config = config
        self._answer = answer
        self._blobs = frame_blobs(config)  # here, so that an unusable URL is an error of the start
        self._waiting: queue.Queue[tuple[str, bytes] | None] = queue.Queue(WAITING_MAX)
        self._closing = threading.Event()

    def offer(self, device: str, payload: bytes) -> bool:
        """Queues a message; never waits.

        Args:
            device: Whose topic it came on.
            payload: A `FramePiece` and its bytes.

        Returns:
            Whether it was queued; if not, it is counted and the device repeats it.
        """
        if len(payload) > PIECE_MAX_BYTES:
            self.counters["malformed"] += 1
            return False
        try:
            self._waiting.put_nowait((device, payload))
        except queue.Full:
            self.counters["dropped"] += 1
            return False
        return True

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Ends the thread; partial images stay on disk."""
        self._closing.set()
        if self.ident is not None:
            self.join(timeout_s)

    def run(self) -> None:
        """Works until it is closed."""
        with (
            Database.open(Path(self._config.folder)) as database,
            contextlib.closing(open_rows(self._config, database)) as rows,
        ):
            worker = FrameWorker(
                self._config, rows, database, blobs=self._blobs, counters=self.counters, answer=self._answer
            )
            while not self._closing.is_set():
                try:
                    item = self._waiting.get(timeout=0.5)
                except queue.Empty:
                    worker.tidy()
                    continue
                if item is not None:
                    worker.take(*item)


class FrameWorker:
    """Handles messages of uploads, one after the other."""

    def __init__(
        self,
        config: HubConfig,
        rows: FrameRows,
        database: Database,
        *,
        blobs: BlobStore,
        counters: collections.Counter[str],
        answer: Callable[[str, FrameAnswer], object],
    ) -> None:
        self._config = config
        self._rows = rows
        self._database = database
        self._counters = counters
        self._answer = answer
        self._blobs = blobs
        self._parts = PartialImages(Path(config.folder))
        self._uploads: dict[str, _Upload] = {}
        self._reported: dict[str, str] = {}
        self._sweep_at_s = 0.0
        self._since_sweep = 0
        self._orphans: Iterator[bool] | None = None

    def take(self, device: str, payload: bytes) -> None:
        """Handles and answers one message; errors of devices and disks are answered or reported, not raised."""
        self._counters["pieces"] += 1
        try:
            piece, body = decode_framed(payload, FramePiece)
        except BadInputFormatError as error:
            self._counters["malformed"] += 1
            self._report_once(device, error)
            return
        if not _SHA256.fullmatch(piece.sha256) or not 0 < len(piece.epoch) <= 64 or not 1 <= piece.seq < 2**63:
            self._counters["malformed"] += 1
            self._report_once(device, BadInputFormatError("piece of a frame without a usable hash, epoch or seq"))
            return
        self._reply(device, piece, self._answer_for(device, piece, bytes(body)))
        if time.monotonic() >= self._sweep_at_s:
            self._sweep()

    def _answer_for(self, device: str, piece: FramePiece, body: bytes) -> FrameAnswer:
        try:
            return self._handle_piece(device, piece, body)
        except FrameError as error:
            self._uploads.pop(device, None)
            self._parts.drop(device)
            self._counters["refused"] += 1
            self._report_once(device, error)
            return _answer_to(piece, "refused", error=Problem(**error.as_dict()))
        except (StoreError, OSError) as error:
            self._uploads.pop(device, None)
            self._counters["errors"] += 1
            known = error if isinstance(error, StoreError) else StoreError(f"{type(error).__name__}: {error}")
            self._report_once("", known)
            return self._wait_answer(piece, WAIT_FULL_S, known)

    def _handle_piece(self, device: str, piece: FramePiece, body: bytes) -> FrameAnswer:
        known = self._uploads.get(device)
        if piece.offset == OFFER or known is None or (known.key, known.sha256) != (_key(device, piece), piece.sha256):
            return self._handle_offer(device, piece)
        known.at_s = time.monotonic()
        if piece.offset < known.have:
            return self._send_answer(piece, known.have)  # a repeat
        if piece.offset > known.have:
            # Only the first piece behind a gap makes the device go back.
            reported, known.gap_reported = known.gap_reported, True
            return self._send_answer(piece, known.have, again=not reported)
        if not body or known.have + len(body) > known.size:
            raise FrameError(
                "a frame is longer than it was said to be", expected=known.size, actual=known.have + len(body)
            )
        self._parts.append(device, piece.sha256, offset=known.have, data=body)
        self._counters["bytes"] += len(body)
        known.have += len(body)
        known.gap_reported = False
        return (
            self._complete(device, piece, known) if known.have == known.size else self._send_answer(piece, known.have)
        )

    def _handle_offer(self, device: str, piece: FramePiece) -> FrameAnswer:
        key, limit = _key(device, piece), self._config.frames.frame_max_bytes
        if not 0 < piece.size <= limit:
            raise FrameError("a frame is too large", expected=f"1 to {limit} bytes", actual=piece.size)
        size = self._rows.record_size(key)
        if size is None:
            raise FrameError(f"a frame of no known record: {key.epoch} {key.seq}")
        there = self._rows.digest(key)
        if there is not None and there != piece.sha256:
            raise FrameError("another frame of this record is there", expected=there, actual=piece.sha256)
        if (data := self._stored_image(piece)) is not None:
            check_head(data, width=size[0], height=size[1])
            return self._store(key, piece, repeated=there is not None)
        if (waits := self._wait_reason(device)) is not None:
            return self._wait_answer(piece, *waits)
        have = self._parts.begin(device, piece.sha256, piece.size)
        known = _Upload(key, piece.sha256, piece.size, have, time.monotonic(), resumed=have > 0)
        known.gap_reported = piece.offset != OFFER
        self._uploads[device] = known
        return (
            self._complete(device, piece, known) if have == piece.size else self._send_answer(piece, have, again=True)
        )

    def _stored_image(self, piece: FramePiece) -> bytes | None:
        """Returns the stored image with this hash; ``None`` if there is none or it is damaged."""
        data = self._blobs.read(piece.sha256)
        whole = data is not None and len(data) == piece.size and hashlib.sha256(data).hexdigest() == piece.sha256
        return data if whole else None

    def _wait_reason(self, device: str) -> tuple[float, StoreError | None] | None:
        if not self._config.frames.take:
            return WAIT_FULL_S, StoreError("this hub takes no frames", action="Set frames.take in hub.toml.")
        if (free := free_bytes(self._config)) < self._config.frames.keep_free_bytes:
            error = DiskFullError(f"{free} bytes are left on the hub's disk, which are for the results")
            self._counters["errors"] += 1
            self._report_once("", error)
            return WAIT_FULL_S, error
        self._forget_idle()
        others = len(self._uploads.keys() - {device})
        return (WAIT_S, None) if others >= self._config.frames.at_once else None

    def _complete(self, device: str, piece: FramePiece, known: _Upload) -> FrameAnswer:
        data = self._parts.read(device, piece.sha256)
        actual = hashlib.sha256(data).hexdigest()
        if actual != piece.sha256 and known.resumed:
            # A power cut may have damaged the first part: receive it once more before the device is refused.
            self._parts.drop(device)
            known.have, known.resumed = 0, False
            return self._send_answer(piece, 0, again=True)
        if actual != piece.sha256:
            raise FrameError("a frame is not what its hash says", expected=piece.sha256, actual=actual)
        width, height = self._rows.record_size(known.key) or (0, 0)
        check_image(data, width=width, height=height)
        self._blobs.write(piece.sha256, data)
        answer = self._store(known.key, piece, repeated=False)
        self._uploads.pop(device, None)
        self._parts.drop(device)
        return answer

    def _store(self, key: ResultKey, piece: FramePiece, *, repeated: bool) -> FrameAnswer:
        self._rows.add(StoredFrame(key, piece.sha256, piece.size), time.time_ns())
        self._counters["repeated" if repeated else "stored"] += 1
        self._reported.pop("", None)  # the next error is reported again
        self._since_sweep += 0 if repeated else piece.size
        if self._since_sweep > 0.01 * min(self._config.frames.max_bytes, self._config.frames.device_max_bytes):
            self._sweep()
        return _answer_to(piece, "stored", have=piece.size)

    def _send_answer(self, piece: FramePiece, have: int, *, again: bool = False) -> FrameAnswer:
        rate = self._config.frames.rate_bytes_s
        share = max(1, int(rate / max(1, len(self._uploads)))) if rate else 0
        return msgspec.structs.replace(_answer_to(piece, "send", have=have), again=again, bytes_s=share)

    def _wait_answer(self, piece: FramePiece, wait_s: float, error: LinesideError | None) -> FrameAnswer:
        self._counters["waits"] += 1
        problem = Problem(**error.as_dict()) if error is not None else None
        return msgspec.structs.replace(_answer_to(piece, "wait", error=problem), wait_s=wait_s)

    def _forget_idle(self) -> None:
        before_s = time.monotonic() - IDLE_S
        self._uploads = {device: known for device, known in self._uploads.items() if known.at_s >= before_s}

    def _reply(self, device: str, piece: FramePiece, answer: FrameAnswer) -> None:
        if answer.status == "refused":
            _log.warning("frame %d of %s is refused: %s", piece.seq, device, answer.error and answer.error.message)
        self._answer(device, answer)

    def tidy(self) -> None:
        """Applies retention while nothing arrives."""
        if time.monotonic() >= self._sweep_at_s:
            self._sweep()
            self._forget_idle()
        try:
            if self._orphans is None:
                self._parts.tidy()
                self._orphans = orphans(self._rows, self._blobs)
            for _ in range(100):
                self._counters["orphans"] += next(self._orphans, False)
        except (StoreError, OSError) as error:
            self._orphans = iter(())
            self._report_once("", error if isinstance(error, StoreError) else StoreError(str(error)))

    def _sweep(self) -> None:
        self._sweep_at_s = time.monotonic() + SWEEP_S
        self._since_sweep = 0
        try:
            for dropped in sweep(self._rows, self._blobs, self._config.frames, time.time_ns()):
                self._counters["removed"] += dropped.count
                detail = f"{dropped.count} frames ({dropped.size / 1e6:.1f} MB) were removed: {dropped.why}"
                _log.warning("%s", detail)
                self._add_event(TimelineEvent(at_ns=time.time_ns(), device="", kind="frames", detail=detail))
        except (StoreError, OSError) as error:
            self._report_once("", error if isinstance(error, StoreError) else StoreError(str(error)))

    def _report_once(self, device: str, error: LinesideError) -> None:
        """Reports an error of a device or disk once until it changes, so that it cannot fill the timeline."""
        said = f"{error.code} {error.message}" if isinstance(error, BadInputFormatError) else str(error.code)
        if self._reported.get(device) == said:
            return
        self._reported[device] = said
        _log.warning("frames%s: %s", f" of {device}" if device else "", error)
        event = TimelineEvent(at_ns=time.time_ns(), device=device, kind="frames", code=error.code, detail=str(error))
        self._add_event(event)

    def _add_event(self, event: TimelineEvent) -> None:
        try:
            with self._database.transaction():
                self._database.add_event(event)
        except StoreError as error:
            _log.error("the timeline can't be written: %s", error)


def _key(device: str, piece: FramePiece) -> ResultKey:
    return ResultKey(device, piece.epoch, piece.seq)


def _answer_to(
    piece: FramePiece,
    status: Literal["send", "stored", "wait", "refused"],
    *,
    have: int = 0,
    error: Problem | None = None,
) -> FrameAnswer:
    head: dict[str, Any] = {"epoch": piece.epoch, "seq": piece.seq, "sha256": piece.sha256}
    return FrameAnswer(**head, status=status, have=have, error=error)
