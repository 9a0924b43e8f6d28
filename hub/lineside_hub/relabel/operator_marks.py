"""Operators' marks, from the devices' reports into ``reviews``."""

from __future__ import annotations

import logging

from lineside_hub.relabel.reviews import Reviews
from lineside_link.messages import MARKS_MAX, NOTE_MAX, Mark, Reported
from lineside_runtime.errors import StoreError

_log = logging.getLogger("lineside.hub.relabel")


class OperatorMarks:
    """Takes each mark once; a report that says it again changes nothing.

    Args:
        reviews: Where they go.
    """

    def __init__(self, reviews: Reviews) -> None:
        self._reviews = reviews
        self._taken: dict[str, tuple[Mark, ...]] = {}

    def take(self, message: Reported) -> None:
        """Takes the marks of a report; what can't be written is tried again with the next one.

        Args:
            message: Of a device.
        """
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
