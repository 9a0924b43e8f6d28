"""The table ``reviews``: marks and corrections of results by people, in the database of the results.

A result has one review: whether its verdict is marked as wrong, and the corrected boxes; the last mark and correction
count. The same statements serve SQLite and PostgreSQL.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

import msgspec

from lineside_hub.config import HubConfig
from lineside_hub.results.frames.rows import ResultKey
from lineside_hub.results.sql import SqlRunner, runner
from lineside_link.messages import MARKS_MAX, NOTE_MAX, Mark, Reported
from lineside_runtime.errors import ConfigError, InputNotFoundError, StoreError


class ReviewEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A result of a part.

    Attributes:
        captured_at_ns: Unix time of the capture.
    """

    device: str
    epoch: str
    seq: int
    captured_at_ns: int
    verdict: str
    has_frame: bool


class Reviews:
    """The reviews of one hub.

    Args:
        run: Runs a statement where the results are.
    """

    def __init__(self, run: SqlRunner) -> None:
        self._run = run

    def results_of(self, part_id: str, device: str = "") -> list[ReviewEntry]:
        """Returns the results of a part, oldest first.

        Args:
            device: Only of this one; empty for all.
        """
        text = (
            "SELECT r.device, r.epoch, r.seq, r.captured_at_ns, r.verdict, f.sha256 FROM results r LEFT JOIN frames f "
            "ON f.device = r.device AND f.epoch = r.epoch AND f.seq = r.seq WHERE r.part_id = :part_id"
        )
        text += " AND r.device = :device" if device else ""
        given = {"part_id": part_id} | ({"device": device} if device else {})
        found = self._run(f"{text} ORDER BY r.captured_at_ns, r.device, r.seq", given)
        return [
            ReviewEntry(
                device=row[0],
                epoch=row[1],
                seq=int(row[2]),
                captured_at_ns=int(row[3] or 0),
                verdict=row[4],
                has_frame=row[5] is not None,
            )
            for row in found
        ]

    def mark(self, key: ResultKey, *, wrong: bool, note: str, by: str) -> None:
        """Marks a verdict as wrong, or withdraws the mark; corrected boxes stay."""
        mark = Mark(epoch=key.epoch, seq=key.seq, at_ns=time.time_ns(), wrong=wrong, note=note)
        self._mark(key.device, mark, by=by, at=_after_all("excluded.marked_at_ns"))

    def take(self, device: str, mark: Mark) -> None:
        """Stores an operator's mark, unless there is a later one."""
        self._mark(device, mark, by=f"at {device}", only="excluded.marked_at_ns > reviews.marked_at_ns")

    def _mark(
        self, device: str, mark: Mark, *, by: str, at: str = "excluded.marked_at_ns", only: str = "1 = 1"
    ) -> None:
        self._run(
            "INSERT INTO reviews (device, epoch, seq, wrong, note, marked_by, marked_at_ns, boxes, corrected_by, "
            "corrected_at_ns) VALUES (:device, :epoch, :seq, :wrong, :note, :by, :at_ns, '', '', 0) "
            "ON CONFLICT (device, epoch, seq) DO UPDATE SET wrong = excluded.wrong, note = excluded.note, "
            f"marked_by = excluded.marked_by, marked_at_ns = {at} WHERE {only}",
            {"device": device, "by": by, **msgspec.structs.asdict(mark), "wrong": int(mark.wrong)},
        )

    def other_boxes_by(self, sha256: str, boxes: str, since_ns: int) -> set[str]:
        """Returns who has given a frame other boxes than ``boxes`` after a time, Unix time in ns."""
        found = self._run(
            "SELECT v.corrected_by FROM frames f JOIN reviews v ON v.device = f.device AND v.epoch = f.epoch "
            "AND v.seq = f.seq WHERE f.sha256 = :sha256 AND v.boxes <> :boxes AND v.corrected_at_ns > :since_ns",
            {"sha256": sha256, "boxes": boxes, "since_ns": since_ns},
        )
        return {row[0] for row in found}

    def correct(self, sha256: str, *, boxes: str, by: str, at_ns: int, unless_since_ns: int | None = None) -> None:
        """Stores corrected boxes of a frame, for every result with it; a repeat without a mark since changes nothing.

        Args:
            boxes: ``[[type, x1, y1, x2, y2], …]`` as JSON, in pixels of the frame.
            at_ns: Unix time.
            unless_since_ns: A result that was corrected later than that is left as it is; ``None`` for none.
        """
        changed = "(reviews.boxes <> excluded.boxes OR reviews.marked_at_ns > reviews.corrected_at_ns)"
        given: dict[str, str | int] = {"sha256": sha256, "boxes": boxes, "by": by, "at_ns": at_ns}
        if unless_since_ns is not None:
            changed = f"{changed} AND reviews.corrected_at_ns <= :unless_since_ns"
            given["unless_since_ns"] = unless_since_ns
        self._run(
            "INSERT INTO reviews (device, epoch, seq, wrong, note, marked_by, marked_at_ns, boxes, corrected_by, "
            "corrected_at_ns) SELECT device, epoch, seq, 0, '', '', 0, :boxes, :by, :at_ns FROM frames "
            "WHERE sha256 = :sha256 ON CONFLICT (device, epoch, seq) DO UPDATE SET boxes = excluded.boxes, "
            f"corrected_by = excluded.corrected_by, corrected_at_ns = {_after_all('excluded.corrected_at_ns')} "
            f"WHERE {changed}",
            given,
        )


def _after_all(at: str) -> str:
    """Returns the SQL of a time, or of 1 ns after the present mark and correction if these are not before it.

    What is said at the hub is the last word, and a device whose clock is ahead must not block it.
    """
    present = "CASE WHEN reviews.marked_at_ns > reviews.corrected_at_ns "
    present += "THEN reviews.marked_at_ns ELSE reviews.corrected_at_ns END"
    return f"CASE WHEN {at} > {present} THEN {at} ELSE {present} + 1 END"


@contextlib.contextmanager
def open_reviews(config: HubConfig) -> Iterator[Reviews]:
    """Opens the reviews of a hub.

    Raises:
        InputNotFoundError: There is no such hub.
    """
    with runner(config) as run:
        yield Reviews(run)


def mark(
    config: HubConfig, part_id: str, *, wrong: bool, device: str = "", newest: bool = False, note: str = "", by: str
) -> ReviewEntry:
    """Marks the verdict on a part as wrong, or withdraws the mark; returns the result that was marked.

    Args:
        device: Needed if several devices inspected the part.

    Raises:
        InputNotFoundError: The hub has no result of this part.
        ConfigError: It has several, and neither ``device`` nor ``newest`` selects one.
    """
    with open_reviews(config) as reviews:
        found = reviews.results_of(part_id, device)
        if not found:
            action = "`lineside fleet results --part ID` shows what there is."
            raise InputNotFoundError(f"the hub has no result of part {part_id!r}", actual=device or None, action=action)
        if len(found) > 1 and not newest:
            raise ConfigError(
                f"{len(found)} results of part {part_id!r}",
                expected="one",
                actual=", ".join(sorted({each.device for each in found})),
                action="Name the device with --device, or take the last one with --newest.",
            )
        seen = found[-1]
        reviews.mark(ResultKey(seen.device, seen.epoch, seen.seq), wrong=wrong, note=note, by=by)
    return seen


_log = logging.getLogger("lineside.hub.relabel")


class ReportedMarks:
    """Stores each mark of operators once; repeats in later reports change nothing."""

    def __init__(self, reviews: Reviews) -> None:
        self._reviews = reviews
        self._taken: dict[str, tuple[Mark, ...]] = {}

    def take(self, message: Reported) -> None:
        """Stores the marks of a report; marks that cannot be written are retried with the next one."""
        taken = self._taken.get(message.device, ())
        if message.marks == taken:
            return
        try:
            for mark in message.marks[-MARKS_MAX:]:
                if mark not in taken:
                    self._one(message.device, mark)
        except StoreError as error:
            _log.error("marks of %s can't be written, and are tried again: %s", message.device, error)
            return
        self._taken[message.device] = message.marks

    def _one(self, device: str, mark: Mark) -> None:
        if not (0 < len(mark.epoch) <= 64 and 1 <= mark.seq < 2**63 and 0 < mark.at_ns < 2**63):
            _log.warning("a mark of %s names no record, and is not used: %s", device, mark)
            return
        note = mark.note[:NOTE_MAX].replace("\0", "")
        self._reviews.take(device, Mark(epoch=mark.epoch, seq=mark.seq, at_ns=mark.at_ns, wrong=mark.wrong, note=note))
