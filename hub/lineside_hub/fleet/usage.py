"""Bytes of results and of interactions of each device, and their quotas."""

from __future__ import annotations

import collections
from collections.abc import Mapping

from lineside_hub.config import ResultsConfig
from lineside_hub.results.database import Database
from lineside_hub.results.streams import StreamName
from lineside_runtime.errors import QuotaError

QUOTAS: dict[StreamName, str] = {"results": "device_max_bytes", "interactions": "device_max_interaction_bytes"}
"""Key of the table ``[results]`` of ``hub.toml`` with the quota of each stream."""


def quota_of(config: ResultsConfig, stream: StreamName) -> int:
    """Returns the bytes of a stream that one device may send; 0 for no limit."""
    most: int = getattr(config, QUOTAS[stream])
    return most


class Usage:
    """Counts bytes of one stream by device, for the thread that writes its rows.

    Args:
        device_max_bytes: Quota of one device; 0 for no limit.
    """

    def __init__(self, database: Database, device_max_bytes: int, stream: StreamName = "results") -> None:
        self._database = database
        self._most = device_max_bytes
        self._stream = stream
        self._bytes = read_usage(database, stream)
        self._pending: collections.Counter[str] = collections.Counter()

    def admit(self, device: str, size: int) -> None:
        """Counts a message of the next transaction."""
        if self._most and self._bytes.get(device, 0) + self._pending[device] >= self._most:
            raise QuotaError(
                f"{self._stream} of {device} are refused: it has sent all that one device may",
                expected=f"below {self._most} bytes",
                action="They stay on the device. "
                f"Raise results.{QUOTAS[self._stream]} in hub.toml and restart the hub.",
            )
        self._pending[device] += size

    def write(self, new_bytes: Mapping[str, int]) -> None:
        """Adds to the counts on disk, inside the caller's transaction."""
        others = ", ".join(_column(name) for name in QUOTAS if name != self._stream)
        column = _column(self._stream)
        self._database.connection.executemany(
            f"INSERT INTO usage (device, {column}, {others}) VALUES (?, ?, 0) "
            f"ON CONFLICT (device) DO UPDATE SET {column} = {column} + excluded.{column}",
            new_bytes.items(),
        )

    def keep(self, new_bytes: Mapping[str, int]) -> None:
        """Adds to the counts in memory after the transaction; nothing if it was rolled back."""
        self._pending.clear()
        for device, count in new_bytes.items():
            self._bytes[device] = self._bytes.get(device, 0) + count


def read_usage(database: Database, stream: StreamName = "results") -> dict[str, int]:
    """Returns the bytes of a stream that each device has sent."""
    return {row["device"]: row[_column(stream)] for row in database.query("SELECT * FROM usage")}


def _column(stream: StreamName) -> str:
    return f"{stream}_bytes"
