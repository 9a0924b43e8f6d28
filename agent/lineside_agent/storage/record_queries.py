"""Queries on the records of a device: search, export, and the counts of a shift. The agent need not run."""

from __future__ import annotations

import collections
import itertools
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from lineside_agent.config import AgentConfig
from lineside_agent.line_io.codes import code_of_record, defect_types
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.record_files import database, packs
from lineside_agent.storage.records import NAME as RECORDS
from lineside_link.messages import ResultRow
from lineside_link.result_table import UNKNOWN, Row, as_stored, values_of
from lineside_runtime.errors import InputNotFoundError

VERDICTS = ("pass", "reject", "unsure", "fault")
"""Verdicts in the table of results."""

CHALLENGE = "challenge:"
"""Prefix of the part id of a challenge part."""

HOUR_NS = 3600 * 10**9


T = TypeVar("T")


class RecordQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Selects records; an empty or ``None`` field selects all.

    Attributes:
        verdict: One of `VERDICTS`.
        defect: Defect type that was found, or that is doubtful.
        bundle: ``name@version``, or a name for all of its versions.
        since_ns: Captured then or later, Unix time in ns.
        until_ns: Captured before.
        limit: Number of records, the newest ones.
        with_frame: Only records with an image on this device.
        unknown: Also numbers that a part may have or not, as after a power cut.
    """

    part_id: str = ""
    verdict: str = ""
    defect: str = ""
    bundle: str = ""
    since_ns: int | None = None
    until_ns: int | None = None
    limit: int | None = None
    with_frame: bool = False
    unknown: bool = False

    def sql(self) -> tuple[str, list[object]]:
        """Returns a statement with its parameters that finds at least these records, the newest first if limited."""
        column = "reject" if self.verdict == "unsure" else self.verdict
        needle = b'"part_id":' + msgspec.json.encode(self.part_id) + b","
        conditions: list[tuple[str, object]] = [
            ("verdict = ?", column or None),
            ("instr(body, ?) > 0", needle if self.part_id else None),
            ("captured_at_ns >= ?", self.since_ns),
            ("captured_at_ns < ?", self.until_ns),
        ]
        used = [(text, value) for text, value in conditions if value is not None]
        where = f" WHERE {' AND '.join(text for text, _ in used)}" if used else ""
        order = "DESC" if self.limit is not None else "ASC"
        return f"SELECT seq, body FROM records{where} ORDER BY seq {order}", [value for _, value in used]

    def holds(self, row: ResultRow) -> bool:
        """Returns whether a record of the statement is selected."""
        name = row.bundle if "@" in self.bundle else row.bundle.partition("@")[0]
        return (
            self.part_id in ("", row.part_id)
            and self.verdict in ("", row.verdict)
            and self.bundle in ("", name)
            and (self.unknown or row.verdict != UNKNOWN)
            and (self.since_ns is None or row.captured_at_ns >= self.since_ns)
            and (self.until_ns is None or row.captured_at_ns < self.until_ns)
            and (not self.defect or self.defect in defect_types(row))
        )


class Record(NamedTuple):
    """One record.

    Attributes:
        epoch: Of the device's database.
        image: The kept image; with several cameras that of the decisive one. ``None`` without one.
    """

    epoch: str
    row: ResultRow
    image: Path | None


def find(config: AgentConfig, query: RecordQuery) -> Iterator[Record]:
    """Yields records, oldest first.

    Raises:
        InputNotFoundError: There are none at all.
        DatabaseError: They can't be read.
    """
    archive = ImageArchive(config.folder, config.store)
    found = (Record(epoch, row, archive.find(row)) for epoch, row in rows(config, query))
    yield from _newest((record for record in found if record.image is not None or not query.with_frame), query.limit)


def rows(config: AgentConfig, query: RecordQuery) -> Iterator[tuple[str, ResultRow]]:
    """Yields epoch and row of each record, whether it has an image or not; all of them, the newest first if limited.

    Raises:
        InputNotFoundError: There are none at all.
        DatabaseError: They can't be read.
    """
    path = config.folder / RECORDS
    if not path.is_file():
        raise InputNotFoundError(f"no records in {config.folder}", action="Start the agent with `lineside agent run`.")
    text, parameters = query.sql()
    with database.reading(path) as connection:
        (epoch,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        stored = packs.merged(
            connection,
            path,
            database.rows_of(connection.execute(text, parameters)),
            between_ns=(query.since_ns, query.until_ns),
            newest_first=query.limit is not None,
            needle=query.part_id.encode(),
        )
        for row in map(as_stored, stored):
            if query.holds(row):
                yield str(epoch), row


def _newest(found: Iterator[T], limit: int | None) -> Iterator[T]:
    """All, or the first ``limit`` in reverse order."""
    yield from found if limit is None else reversed(list(itertools.islice(found, limit)))


def table_row(config: AgentConfig, record: Record) -> Row:
    """Returns a record in the order of `lineside_link.result_table.COLUMNS`."""
    frame = "" if record.image is None else str(record.image.relative_to(config.folder))
    return (*values_of(config.device, record.epoch, record.row, 0), frame)


def copy_image(config: AgentConfig, query: RecordQuery, path: Path) -> Record:
    """Copies the image of the newest selected record, and returns that record.

    Raises:
        InputNotFoundError: No record is found, or no image of the newest one was kept.
        DatabaseError: The records can't be read.
    """
    newest = next(find(config, msgspec.structs.replace(query, limit=1)), None)
    if newest is None:
        raise InputNotFoundError("no such record here", action="`lineside agent results` lists what there is.")
    if newest.image is None:
        action = "See keep_images under [store]; old images make way. --with-frame finds those that have one."
        raise InputNotFoundError(f"no image of part {newest.row.part_id!r} is on this device", action=action)
    shutil.copyfile(newest.image, path)
    return newest


def copy_images(config: AgentConfig, query: RecordQuery, folder: Path) -> int:
    """Copies the images of records into a folder, named as in the column ``frame``; returns how many."""
    copied = 0
    for record in find(config, msgspec.structs.replace(query, with_frame=True)):
        if record.image is not None:
            target = folder / record.image.relative_to(config.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(record.image, target)
            copied += 1
    return copied


class HourCount(msgspec.Struct, kw_only=True):
    """Counts of one hour.

    Attributes:
        start_ns: Unix time of its begin.
    """

    start_ns: int
    verdicts: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(VERDICTS, 0))


class ShiftReport(msgspec.Struct, kw_only=True):
    """Counts of a period. Challenge parts are counted apart, unknown numbers not at all.

    Attributes:
        first_ns: Capture of the first part; 0 without parts.
        last_ns: Capture of the last part.
        codes: Parts by result code, such as ``LATE``; ``UNRECORDED`` for parts without a record of a killed agent.
        defects: Parts by defect type, the most frequent first; a part with several types counts for each.
        latency_ms: Median, 95th percentile and highest time to a verdict; empty without verdicts.
    """

    device: str
    first_ns: int = 0
    last_ns: int = 0
    parts: int = 0
    verdicts: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(VERDICTS, 0))
    codes: dict[str, int] = msgspec.field(default_factory=dict)
    defects: dict[str, int] = msgspec.field(default_factory=dict)
    challenge: int = 0
    latency_ms: dict[str, float] = msgspec.field(default_factory=dict)
    hours: list[HourCount] = msgspec.field(default_factory=list)


def report(config: AgentConfig, query: RecordQuery) -> ShiftReport:
    """Counts the records of a shift."""
    made = ShiftReport(device=config.device)
    codes: collections.Counter[str] = collections.Counter()
    defects: collections.Counter[str] = collections.Counter()
    hours: dict[int, HourCount] = {}
    took_ms: list[float] = []
    query = msgspec.structs.replace(query, unknown=False)
    if query.with_frame:
        counted = (record.row for record in find(config, query))
    else:
        counted = (row for _, row in itertools.islice(rows(config, query), query.limit))
    for row in counted:
        if row.part_id.startswith(CHALLENGE):
            made.challenge += 1
            continue
        made.parts += 1
        made.verdicts[row.verdict] += 1
        made.first_ns = min(made.first_ns or row.captured_at_ns, row.captured_at_ns)
        made.last_ns = max(made.last_ns, row.captured_at_ns)
        codes[code_of_record(row)] += 1
        if row.verdict in ("reject", "unsure"):
            defects.update(defect_types(row))
        start_ns = row.captured_at_ns - row.captured_at_ns % HOUR_NS
        hours.setdefault(start_ns, HourCount(start_ns=start_ns)).verdicts[row.verdict] += 1
        if row.latency_ms:
            took_ms.append(row.latency_ms)
    made.codes, made.defects = dict(codes.most_common()), dict(defects.most_common())
    made.hours = [hours[start_ns] for start_ns in sorted(hours)]
    if took_ms:
        took_ms.sort()
        high = took_ms[min(len(took_ms) - 1, int(0.95 * len(took_ms)))]
        made.latency_ms = {"median": statistics.median(took_ms), "p95": high, "max": took_ms[-1]}
    return made
