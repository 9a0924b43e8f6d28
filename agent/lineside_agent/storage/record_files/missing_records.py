"""`MissingRecords`: a range of numbers whose parts have no record, and rows in their place."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Iterator

from lineside_link.messages import ResultRow

ROWS_MAX = 1000
"""Rows of one transaction."""


@dataclasses.dataclass(frozen=True, slots=True)
class MissingRecords:
    """Numbers of one source.

    Attributes:
        until: Number after the last one.
        unknown: Numbers that a part may have or not; with the others a part has begun.
    """

    source: str
    first: int
    until: int
    unknown: range
    reason: str

    def rows(self, first: int, limit: int = ROWS_MAX) -> list[ResultRow]:
        """Returns the next rows from the number ``first`` on, at most ``limit``."""
        return [self._row(number) for number in range(first, min(first + limit, self.until))]

    def _row(self, number: int) -> ResultRow:
        is_unknown = number in self.unknown
        what = "the part has no record"
        if is_unknown:
            what = "the number was reserved, and it is not known whether a part had it"
        return ResultRow(
            seq=0,
            part_id=f"unrecorded-{number}",
            source=self.source,
            sequence=number,
            captured_at_ns=time.time_ns(),
            verdict="fault",
            error=f"unrecorded: {what}; {self.reason}",
            unknown=is_unknown,
        )


class LostRecords:
    """Records without room in memory, until rows in their place can be written."""

    def __init__(self) -> None:
        self._ranges: collections.deque[MissingRecords] = collections.deque()

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def add(self, row: ResultRow, reason: str) -> None:
        """Adds a record; those of one source come in the order of their numbers."""
        last, until = self._ranges[-1] if self._ranges else None, row.sequence + 1
        if last is not None and (last.source, last.until) == (row.source, row.sequence):
            self._ranges[-1] = dataclasses.replace(last, until=until)
        else:
            why = f"there was no room for it: {reason}"
            self._ranges.append(MissingRecords(row.source, row.sequence, until, range(0), why))

    def take(self) -> Iterator[MissingRecords]:
        """Yields all of them, and forgets them."""
        while self._ranges:
            yield self._ranges.popleft()
