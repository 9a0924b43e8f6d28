"""Write messages of devices into the database: one thread, group commit.

Handlers of the link only queue messages. The thread writes all waiting messages in one transaction and acknowledges
them after the commit. An unreadable message is counted, logged and becomes an event. If the database cannot be written
(a full disk), nothing is lost: nothing was acknowledged, and devices send again.
"""

from __future__ import annotations

import collections
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from lineside_hub.config import IDENTITY_NAME, ResultsConfig
from lineside_hub.fleet.timeline import FleetTimeline, read_message
from lineside_hub.fleet.usage import Usage, quota_of
from lineside_hub.identity.authority import EnrolledGroups
from lineside_hub.relabel.reviews import ReportedMarks, Reviews
from lineside_hub.results.database import Database, TimelineEvent
from lineside_hub.results.sql import open_runner
from lineside_hub.results.streams import STREAMS, RowBatch, RowStream, StreamName, read_batch
from lineside_hub.results.writer import ResultsSink, Sink
from lineside_link.messages import MESSAGE_MAX_BYTES, Reported, ResultsAck, Up
from lineside_runtime.errors import BadInputFormatError, LinesideError, QuotaError, StoreError

_log = logging.getLogger("lineside.hub.inbox")

MessageKind = StreamName | Literal["up", "reported"]
Item = tuple[MessageKind, str, bytes]

WAITING_MAX = 2000
WAITING_MAX_BYTES = 64 << 20
"""Messages that may wait. A last resort: a device has a bounded window of unacknowledged rows."""

GROUP_MAX = 100
"""Messages in one transaction: with 50 rows a commit a row takes 145 µs, with one 340 µs."""

WINDOW_BEHIND = 50
"""Unacknowledged rows of a device while more than a quarter of the queue is in use: one message, not four."""

RETRY_S = 1.0
"""Pause after the database could not be written."""


class Inbox(threading.Thread):
    """Queue and writer thread of messages from devices.

    Args:
        acknowledge: Called in the writer's thread after a commit, with the stream, a device and its acknowledgement.
        config: The ``[results]`` table: the database instead of ``hub.db``, if any, and the quotas.

    Attributes:
        counters: ``messages``, ``rows`` (results), ``interactions``, ``malformed``, ``dropped``, ``write_errors``,
            ``repeats``, ``conflicts``, ``too_large``, ``held_back``, ``over_quota``.
    """

    def __init__(
        self,
        folder: Path,
        acknowledge: Callable[[StreamName, str, ResultsAck], None],
        config: ResultsConfig | None = None,
    ) -> None:
        super().__init__(name="hub-writer", daemon=True)
        self.counters: collections.Counter[str] = collections.Counter()
        self._folder = folder
        self._config = config or ResultsConfig()
        self._acknowledge = acknowledge
        self._waiting: queue.Queue[Item | None] = queue.Queue(WAITING_MAX)
        self._budget = _ByteBudget(WAITING_MAX_BYTES)

    def offer(self, kind: MessageKind, device: str, payload: bytes) -> bool:
        """Queues a message; waits a while if the queue is full, which slows the broker down.

        Returns:
            Whether it was queued; if not, it is counted and logged, and its device sends it again.
        """
        if len(payload) > MESSAGE_MAX_BYTES:
            self.counters["too_large"] += 1
            _log.warning("a message (%s) of %s was dropped: %d bytes", kind, device, len(payload))
            return False
        if not self._budget.acquire(len(payload), timeout_s=1.0):
            return self._drop(kind, device)
        try:
            self._waiting.put((kind, device, payload), timeout=1.0)
        except queue.Full:
            self._budget.release(len(payload))
            return self._drop(kind, device)
        return True

    def _drop(self, kind: MessageKind, device: str) -> bool:
        self.counters["dropped"] += 1
        _log.warning(
            "a message (%s) of %s was dropped: %d bytes in %d messages wait for the disk",
            kind,
            device,
            self._budget.held,
            self._waiting.qsize(),
        )
        return False

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Writes the waiting messages and ends the thread."""
        self._waiting.put(None)
        self.join(timeout_s)

    def acknowledgements(self, database: Database) -> Iterator[tuple[StreamName, str, ResultsAck]]:
        """Yields the last acknowledgement of each device in each stream."""
        for stream in STREAMS.values():
            if not self._config.url:
                known = database.acknowledgements(stream.watermarks)
            else:
                from lineside_hub.results.postgres import acknowledgements

                known = acknowledgements(self._config.url, stream)
            yield from ((stream.name, device, ack) for device, ack in known.items())

    def run(self) -> None:
        """Works until it is closed."""
        with (
            Database.open(self._folder) as database,
            open_runner(self._config.url, database) as run,
        ):
            groups = EnrolledGroups(self._folder / IDENTITY_NAME)
            sinks = {name: self._sink(database, stream) for name, stream in STREAMS.items()}
            writer = _Writer(
                database,
                sinks,
                self.counters,
                marks=ReportedMarks(Reviews(run)),
                groups=groups,
                usage={name: Usage(database, quota_of(self._config, name), name) for name in STREAMS},
            )
            going_on = True
            while going_on:
                group, going_on = self._take()
                self._write(writer, group)
            for sink in sinks.values():
                sink.close()

    def _sink(self, database: Database, stream: RowStream) -> Sink:
        if not self._config.url:
            return ResultsSink(database, stream)
        from lineside_hub.results.postgres import PostgresSink

        return PostgresSink(self._config.url, stream)

    def _take(self) -> tuple[list[Item], bool]:
        group: list[Item] = []
        item = self._waiting.get()
        while item is not None:
            group.append(item)
            self._budget.release(len(item[2]))
            if len(group) == GROUP_MAX or self._waiting.empty():
                return group, True
            item = self._waiting.get()
        return group, False

    def _write(self, writer: _Writer, group: list[Item]) -> None:
        if not group:
            return
        messages = [message for item in group for message in writer.read(item)]
        try:
            acks = writer.commit(messages)
        except StoreError as error:
            self.counters["write_errors"] += 1
            _log.error("%d messages not written; their devices send them again: %s", len(messages), error)
            time.sleep(RETRY_S)
            return
        behind = self._waiting.qsize() > WAITING_MAX // 4
        self.counters["held_back"] += behind
        for stream, device, ack in acks:
            self._acknowledge(stream, device, msgspec.structs.replace(ack, window=WINDOW_BEHIND) if behind else ack)


class _ByteBudget:
    """Bounds the bytes of waiting messages; thread-safe."""

    def __init__(self, most: int) -> None:
        self.held = 0
        self._most = most
        self._changed = threading.Condition()

    def acquire(self, count: int, *, timeout_s: float) -> bool:
        """Reserves bytes; returns whether they became available in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.held + count <= self._most, timeout_s):
                return False
            self.held += count
            return True

    def release(self, count: int) -> None:
        """Releases reserved bytes."""
        with self._changed:
            self.held -= count
            self._changed.notify_all()


_Message = RowBatch | Up | Reported | TimelineEvent


class _Writer:
    def __init__(
        self,
        database: Database,
        sinks: Mapping[StreamName, Sink],
        counters: collections.Counter[str],
        *,
        marks: ReportedMarks,
        groups: EnrolledGroups,
        usage: Mapping[StreamName, Usage],
    ) -> None:
        self._database = database
        self._counters = counters
        self._sinks = sinks
        self._fleet = FleetTimeline(database, group_of=groups.group_of)
        self._marks = marks
        self._usage = usage
        self._reported: dict[tuple[MessageKind, str], str] = {}

    def read(self, item: Item) -> list[_Message]:
        """Returns the message, or an event if it is unreadable; nothing for a cleared topic."""
        kind, device, payload = item
        self._counters["messages"] += 1
        if not payload:
            return []
        try:
            if kind == "results" or kind == "interactions":
                self._usage[kind].admit(device, len(payload))
                return [read_batch(device, payload, STREAMS[kind])]
            if kind == "up":
                return [read_message(device, payload, Up)]
            return [read_message(device, payload, Reported)]
        except BadInputFormatError as error:
            self._counters["malformed"] += 1
            return self._report_once(kind, device, error)
        except QuotaError as error:
            self._counters["over_quota"] += 1
            return self._report_once(kind, device, error)

    def _report_once(self, kind: MessageKind, device: str, error: LinesideError) -> list[_Message]:
        """Reports a refused message of a device once until it changes, so that it cannot fill the timeline."""
        if self._reported.get((kind, device)) == str(error):
            _log.debug("%s of %s, again: %s", kind, device, error)
            return []
        self._reported[kind, device] = str(error)
        _log.warning("%s of %s: %s", kind, device, error)
        what = "quota" if isinstance(error, QuotaError) else "malformed"
        return [TimelineEvent(at_ns=time.time_ns(), device=device, kind=what, code=error.code, detail=str(error))]

    def commit(self, messages: list[_Message]) -> list[tuple[StreamName, str, ResultsAck]]:
        """Writes rows, then births and reports; in one transaction if both are in SQLite."""
        batches: dict[StreamName, list[RowBatch]] = {name: [] for name in self._sinks}
        for message in messages:
            if isinstance(message, RowBatch):
                batches[message.stream].append(message)
        acks: list[tuple[StreamName, str, ResultsAck]] = []
        try:
            with self._database.transaction():
                for name, sink in self._sinks.items():
                    found, events = sink.write(batches[name])
                    acks += ((name, device, ack) for device, ack in found.items())
                    self._usage[name].write(sink.new_bytes)
                    for event in events:
                        self._write(event)
                for message in messages:
                    self._write(message)
        except StoreError:
            for name, sink in self._sinks.items():
                sink.forget()
                self._usage[name].keep({})
            raise
        for name, sink in self._sinks.items():
            self._usage[name].keep(sink.new_bytes)
        for message in messages:
            if isinstance(message, Reported):
                self._marks.take(message)
        self._counters["rows"] += sum(len(batch.rows) for batch in batches["results"])
        self._counters["interactions"] += sum(len(batch.rows) for batch in batches["interactions"])
        self._counters["repeats"] = sum(sink.repeats for sink in self._sinks.values())
        self._counters["conflicts"] = sum(sink.conflicts for sink in self._sinks.values())
        return acks

    def _write(self, message: _Message) -> None:
        if isinstance(message, Up):
            self._fleet.write_up(message)
        elif isinstance(message, Reported):
            self._fleet.write_reported(message)
        elif isinstance(message, TimelineEvent):
            self._database.add_event(message)
