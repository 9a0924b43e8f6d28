"""Journal of a round at the coordinator, with which it goes on after a kill.

A `Coordinator` computes the same from the same messages. So the journal holds the plan, each message that arrived, and
where a step ended. A step's end is on the disk before anything of the next step is sent.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lineside_link.aggregation.messages import FromPlant, RoundPlan, from_plant, read_plan
from lineside_runtime.files import fsync_folder

_HEAD = struct.Struct("<I")


class _Record(msgspec.Struct, frozen=True, array_like=True):
    plant: str
    body: bytes


class SessionJournal:
    """The file of one round.

    Args:
        path: Made when the round begins.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[RoundPlan | None, list[tuple[str, FromPlant] | None]]:
        """Returns the plan, and messages with their plants; ``None`` among them where a step ended.

        The plan is ``None`` if no round was begun. A record that a kill cut off is left out.
        """
        records = list(self._records()) if self._path.exists() else []
        if not records:
            return None, []
        rest = [(each.plant, from_plant.decode(each.body)) if each.plant else None for each in records[1:]]
        return read_plan(records[0].body), rest

    def _records(self) -> Iterator[_Record]:
        data = self._path.read_bytes()
        at = whole = 0
        while at + _HEAD.size <= len(data):
            (size,) = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            if at + size > len(data):
                break
            yield msgspec.msgpack.decode(data[at : at + size], type=_Record)
            at = whole = at + size
        if whole < len(data):
            os.truncate(self._path, whole)

    def begin(self, plan: RoundPlan) -> None:
        """Begins a round in place of what the file held."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._append(_Record("", msgspec.json.encode(plan)), sync=True)
        fsync_folder(self._path.parent)

    def add(self, plant: str, message: FromPlant) -> None:
        """Adds a message; it may be lost with a kill, and is then asked for again."""
        self._append(_Record(plant, msgspec.json.encode(message)), sync=False)

    def end_step(self) -> None:
        """Notes that a step has ended; on the disk when this returns."""
        self._append(_Record("", b""), sync=True)

    def remove(self) -> None:
        """Deletes the file: the round is over."""
        self._path.unlink(missing_ok=True)

    def _append(self, record: _Record, *, sync: bool) -> None:
        data = msgspec.msgpack.encode(record)
        with self._path.open("ab") as file:
            file.write(_HEAD.pack(len(data)) + data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
