"""Upload kept images to the hub, one after the other, after everything else.

An image is offered by its hash. The hub answers from which byte on it wants it, that it has it, that the device must
wait, or that it refuses it. Pieces of 16 KiB are sent, four under way at a time, no faster than allowed.

Invariants:

- Only images of records that the hub has committed are offered, in order. An image that is ``stored`` is noted with the
  next records; a kill before that costs one more offer, which the hub answers from what it has.
- Results and control come first: no piece is sent while rows wait or a bundle is being fetched, and no more than four
  pieces are ever ahead of a result.
- The line never waits for an upload. A hub that is away, full, or too old to answer is tried again after growing
  pauses. Images wait on the disk, within the archive's limits; those deleted unsent are logged and counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lineside_agent.config import StoreConfig
from lineside_agent.storage.record_files.database import UnsentImage
from lineside_agent.storage.records import RecordStore
from lineside_link.messages import FRAME_PIECE_BYTES, FrameAnswer, FramePiece, decode, encode_framed
from lineside_runtime.errors import DatabaseError
from lineside_runtime.serving.backoff import Backoff

log = logging.getLogger("lineside.frames")

WINDOW = 4
"""Pieces under way."""

ANSWER_TIMEOUT_S = 6.0
WAIT_MAX_S = 600.0
_POLL_S = 0.5
_PAUSES = Backoff(2.0, 300.0)


@dataclasses.dataclass(slots=True)
class UploadCounts:
    """Counts of the uploader's thread, the only writer.

    Attributes:
        sent: Images that the hub has taken, or had.
        refused: Images that it refused for good.
        missing: Images that were deleted before they could be sent.
        bytes: Of the pieces that were sent.
        problem: Why images wait; empty if they do not.
    """

    sent: int = 0
    refused: int = 0
    missing: int = 0
    bytes: int = 0
    problem: str = ""


class FrameUploader:
    """Sends images in a thread of its own.

    Args:
        publish: Sends a message; false without a connection.
        may_send: Returns whether nothing more important is under way.
        settings: Returns the ``[store]`` table in effect.
    """

    def __init__(
        self,
        store: RecordStore,
        folder: Path,
        *,
        publish: Callable[[bytes], bool],
        may_send: Callable[[], bool],
        settings: Callable[[], StoreConfig],
        stop: threading.Event,
    ) -> None:
        self.counts = UploadCounts()
        self._store = store
        self._folder = folder
        self._publish = publish
        self._may_send = may_send
        self._settings = settings
        self._stop = stop
        self._answers: queue.Queue[FrameAnswer | None] = queue.Queue(64)
        self._failures = 0
        self._free_at_s = 0.0
        self._link_lost = False
        self._settled_through = ("", 0)
        self._late_seen = 0
        self._was_missing = False

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to send, or the hub takes nothing now."""
        return self._store.unsent_images == 0 or bool(self.counts.problem) or not self._settings().send_images

    def connected(self) -> None:
        """Takes a new connection: a pause ends, and what was under way is lost."""
        self._put(None)

    def answered(self, _topic: str, payload: bytes) -> None:
        """Takes the hub's answer."""
        self._put(decode(payload, FrameAnswer))

    def _put(self, item: FrameAnswer | None) -> None:
        try:
            self._answers.put_nowait(item)
        except queue.Full:
            log.debug("too many answers of the hub: one is dropped")

    def run(self) -> None:
        """Runs in the caller's thread until stopped."""
        seen = 0
        while not self._stop.is_set():
            try:
                image = self._next_image()
            except DatabaseError as error:
                log.error("%s", error)
                image = None
            if image is None:
                seen = self._store.wait_change(seen, _POLL_S)
            elif self._wait_until_allowed():
                self._send_one(image)

    def _next_image(self) -> UnsentImage | None:
        if not self._settings().send_images:
            return None
        if self._late_seen != self._store.counts.images_late:  # one of an older record: look from the beginning
            self._late_seen, self._settled_through = self._store.counts.images_late, ("", 0)
        epoch, seq = self._settled_through
        return self._store.first_unsent_image(seq if epoch == self._store.epoch else 0)

    def _mark_settled(self, epoch: str, seq: int) -> None:
        self._settled_through = (epoch, seq)
        self._store.settle_image(epoch, seq)

    def _wait_until_allowed(self) -> bool:
        while not self._stop.is_set():
            if self._may_send():
                return True
            self._stop.wait(_POLL_S / 5)
        return False

    def _send_one(self, image: UnsentImage) -> None:
        epoch = self._store.epoch
        try:
            data = (self._folder / image.path).read_bytes()
        except OSError as error:
            if not self._was_missing:
                log.warning("kept images made room before they were sent: %s, and maybe more", error)
            self._was_missing = True
            self.counts.missing += 1
            self._mark_settled(epoch, image.seq)
            return
        self._was_missing = False
        head = FramePiece(epoch=epoch, seq=image.seq, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        self._link_lost = False
        answer = self._upload(head, data)
        if answer is not None and answer.status in ("stored", "refused"):
            self._finish(image, answer)
        elif not self._link_lost and not self._stop.is_set():
            self._postpone(answer)

    def _upload(self, head: FramePiece, data: bytes) -> FrameAnswer | None:
        """Returns the hub's last answer; ``None`` if there was none."""
        self._forget_answers()
        if not self._send(encode_framed(head)):
            return None
        have = ahead = 0
        bytes_s = self._settings().send_bytes_s
        while (answer := self._next_answer(head)) is not None and answer.status == "send":
            if not 0 <= answer.have <= len(data):
                return None
            have = max(have, answer.have)
            if answer.again:
                have = ahead = answer.have
            ahead = max(ahead, have)
            if answer.bytes_s:
                bytes_s = min(self._settings().send_bytes_s, float(answer.bytes_s))
            while ahead < len(data) and ahead - have < WINDOW * FRAME_PIECE_BYTES:
                body = data[ahead : ahead + FRAME_PIECE_BYTES]
                if not self._pace(len(body), bytes_s) or not self._send(encode_framed(_at(head, ahead), body)):
                    return None
                self.counts.bytes += len(body)
                ahead += len(body)
        return answer

    def _send(self, payload: bytes) -> bool:
        self._link_lost = not self._publish(payload)
        return not self._link_lost

    def _pace(self, count: int, bytes_s: float) -> bool:
        """Waits until a piece may be sent; false if stopped."""
        if not self._wait_until_allowed():
            return False
        if (left_s := self._free_at_s - time.monotonic()) > 0 and self._stop.wait(left_s):
            return False
        self._free_at_s = max(self._free_at_s, time.monotonic()) + count / bytes_s
        return True

    def _forget_answers(self) -> None:
        while not self._answers.empty():
            self._answers.get_nowait()

    def _next_answer(self, head: FramePiece) -> FrameAnswer | None:
        """Waits for an answer to this image; ``None`` if there is none, or the link was lost."""
        until_s = time.monotonic() + ANSWER_TIMEOUT_S
        while (left_s := until_s - time.monotonic()) > 0 and not self._stop.is_set():
            try:
                answer = self._answers.get(timeout=min(left_s, _POLL_S))
            except queue.Empty:
                continue
            if answer is None:
                self._link_lost = True
                return None
            if (answer.epoch, answer.seq, answer.sha256) == (head.epoch, head.seq, head.sha256):
                return answer
        return None

    def _finish(self, image: UnsentImage, answer: FrameAnswer) -> None:
        if self.counts.problem:
            log.info("frames are sent again")
        self._failures, self.counts.problem = 0, ""
        if answer.status == "refused":
            self.counts.refused += 1
            log.error("the hub refuses the image of record %d: %s", image.seq, _reason(answer))
        else:
            self.counts.sent += 1
        self._mark_settled(answer.epoch, image.seq)

    def _postpone(self, answer: FrameAnswer | None) -> None:
        """Pauses, and logs the reason once."""
        self._failures += 1
        waits = answer is not None and answer.status == "wait"
        problem = _reason(answer) if answer is not None and waits else "the hub doesn't answer offers of frames"
        if problem and problem != self.counts.problem:
            log.warning("kept images wait: %s", problem)
        self.counts.problem = problem
        pause_s = min(answer.wait_s, WAIT_MAX_S) if answer is not None and waits else _PAUSES.after(self._failures)
        self._pause(pause_s)

    def _pause(self, pause_s: float) -> None:
        until_s = time.monotonic() + pause_s
        while (left_s := until_s - time.monotonic()) > 0 and not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                if self._answers.get(timeout=min(left_s, _POLL_S)) is None:
                    return  # a new connection


def _at(head: FramePiece, offset: int) -> FramePiece:
    return FramePiece(epoch=head.epoch, seq=head.seq, sha256=head.sha256, size=head.size, offset=offset)


def _reason(answer: FrameAnswer) -> str:
    return answer.error.text if answer.error is not None else "others are sending"
