"""`GateQueueFile`: the parts on their way to the gate, in a file for the next process of the same boot.

It is written without fsync: after a kill the kernel still has it, and after a power cut the parts have long passed. Due
times are on the monotonic clock, which goes on over a restart of the process and begins anew with the machine.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lineside_agent.line_io.gate import GateEntry
from lineside_runtime.decoding import decode_json

log = logging.getLogger("lineside.line_io")

NAME = "gate-queue.json"
MAX_BYTES = 1 << 20
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Content(msgspec.Struct, frozen=True):
    boot: str
    entries: tuple[tuple[int, float, int], ...]


class GateQueueFile:
    """One file; written by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._boot = BOOT_ID.read_text().strip()
        self._descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._written: tuple[GateEntry, ...] | None = None

    def read(self) -> tuple[GateEntry, ...]:
        """Returns the queue of the process before this one; empty after a boot."""
        checksum, _, data = os.pread(self._descriptor, MAX_BYTES, 0).partition(b"\n")
        if not data:
            return ()
        try:
            if int(checksum, 16) != zlib.crc32(data):
                raise ValueError("wrong checksum")
            content = decode_json(data, type=_Content)
        except ValueError as error:
            log.error("%s can't be read, parts on their way to the gate are not known: %s", NAME, error)
            return ()
        return tuple(GateEntry(*entry) for entry in content.entries) if content.boot == self._boot else ()

    def write(self, entries: Sequence[GateEntry]) -> None:
        """Writes the queue if it has changed; on a full disk that is logged and the line goes on."""
        queue = tuple(entries)
        if queue == self._written or self._descriptor < 0:
            return
        rows = tuple((entry.number, entry.due_s, entry.due_count) for entry in queue)
        data = msgspec.json.encode(_Content(self._boot, rows))
        whole = b"%08x\n%s" % (zlib.crc32(data), data)
        try:
            os.pwrite(self._descriptor, whole, 0)
            os.ftruncate(self._descriptor, len(whole))
        except OSError as error:
            log.error("%s can't be written: %s", NAME, error)
            return
        self._written = queue

    def close(self) -> None:
        """Closes the file; a second call changes nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
