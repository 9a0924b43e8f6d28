"""The partition table of a PC's first sector: four entries of 16 bytes at 446, and 55 aa."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from lineside_boards.image.table import SECTOR, Partition
from lineside_runtime.errors import ImageError

_ENTRY = struct.Struct("<B3sB3sII")
_FIRST, _COUNT, _SIGNATURE = 446, 4, b"\x55\xaa"
_NO_CHS = b"\xfe\xff\xff"
"""Cylinder, head and sector of a disk that is counted in sectors."""

PROTECTIVE = 0xEE


def read(file: BinaryIO) -> tuple[Partition, ...]:
    """Returns the primary partitions.

    Raises:
        ImageError: The first sector is no partition table.
    """
    sector = _sector(file)
    if sector[510:512] != _SIGNATURE:
        raise ImageError("no partition table", expected="55 aa at 510", actual=sector[510:512].hex(" ") or "no sector")
    entries = [_ENTRY.unpack_from(sector, _FIRST + index * _ENTRY.size) for index in range(_COUNT)]
    return tuple(
        Partition(index + 1, start * SECTOR, count * SECTOR, kind)
        for index, (_, _, kind, _, start, count) in enumerate(entries)
        if kind and count
    )


def is_protective(file: BinaryIO) -> bool:
    """Returns whether it only says that a GPT follows."""
    return _sector(file)[_FIRST + 4 : _FIRST + 5] == bytes([PROTECTIVE])


def disk_id(file: BinaryIO) -> int:
    """Returns the disk's identifier, of which Linux makes ``PARTUUID``."""
    return int.from_bytes(_sector(file)[440:444], "little")


def write_mbr(image: Path, parts: Sequence[Partition], *, disk_id: int) -> None:
    """Writes a table into an image; whatever boot code was there stays.

    Args:
        image: The image.
        parts: At most four; the first is marked as the one to boot from.
        disk_id: Of the disk.
    """
    with image.open("r+b") as file:
        sector = bytearray(_sector(file).ljust(SECTOR, b"\0"))
        sector[440:444] = disk_id.to_bytes(4, "little")
        for index in range(_COUNT):
            entry = bytes(_ENTRY.size)
            if index < len(parts):
                part, active = parts[index], 0x80 if index == 0 else 0
                entry = _ENTRY.pack(active, _NO_CHS, part.kind, _NO_CHS, part.start // SECTOR, part.size // SECTOR)
            sector[_FIRST + index * _ENTRY.size : _FIRST + (index + 1) * _ENTRY.size] = entry
        sector[510:512] = _SIGNATURE
        file.seek(0)
        file.write(sector)


def _sector(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(SECTOR)
