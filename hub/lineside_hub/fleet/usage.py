"""Bytes of results of each device, and their quota."""

from __future__ import annotations

import collections
from collections.abc import Mapping

from lineside_hub.results.database import Database
from lineside_runtime.errors import QuotaError


class Usage:
    """Counts bytes of results by device, for the thread that writes results.

    Args:
        device_max_bytes: Quota of one device; 0 for no limit.
    """

    def __init__(self, database: Database, device_max_bytes: int) -> None:
        self._database = database
        self._most = device_max_bytes
        self._bytes = read_usage(database)
        self._pending: collections.Counter[str] = collections.Counter()

    def admit(self, device: str, size: int) -> None:
        """Counts a message of the next transaction.

        Args:
            size: Of the message, in bytes.
        """
        if self._most and self._bytes.get(device, 0) + self._pending[device] >= self._most:
            raise QuotaError(
                f"results of {device} are refused: it has sent all that one device may",
                expected=f"below {self._most} bytes",
                action="They stay on the device. Raise results.device_max_bytes in hub.toml and restart the hub.",
            )
        self._pending[device] += size

    def write(self, new_bytes: Mapping[str, int]) -> None:
        """Adds to the counts on disk, inside the caller's transaction."""
        self._database.connection.executemany(
            "INSERT INTO usage VALUES (?, ?) "
            "ON CONFLICT (device) DO UPDATE SET results_bytes = results_bytes + excluded.results_bytes",
            new_bytes.items(),
        )

    def keep(self, new_bytes: Mapping[str, int]) -> None:
        """Adds to the counts in memory after the transaction; nothing if it was rolled back."""
        self._pending.clear()
        for device, count in new_bytes.items():
            self._bytes[device] = self._bytes.get(device, 0) + count


def read_usage(database: Database) -> dict[str, int]:
    """Returns the bytes of results that each device has sent."""
    return {row["device"]: row["results_bytes"] for row in database.query("SELECT * FROM usage")}
