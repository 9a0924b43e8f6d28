"""The GUID partition table, as JetPack's images have it; read only. UEFI 2.10, 5.3."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from lineside_boards.image.table import SECTOR, Partition
from lineside_runtime.errors import ImageError

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY_LEAST, _ENTRY_MOST, _COUNT_MOST = 128, 4096, 1024


def read(file: BinaryIO) -> tuple[Partition, ...]:
    """Returns the partitions with their names.

    Raises:
        ImageError: The header or the entries are damaged.
    """
    file.seek(SECTOR)
    sector = file.read(SECTOR)
    if sector[:8] != b"EFI PART" or len(sector) < SECTOR:
        raise ImageError("the partition table is damaged", expected="EFI PART in the second sector")
    _, _, size, crc, _, _, _, _, _, _, first, count, length, entries_crc = _HEADER.unpack_from(sector)
    if not 92 <= size <= SECTOR or zlib.crc32(sector[:16] + bytes(4) + sector[20:size]) != crc:
        raise ImageError("the partition table's header is damaged", action="Fetch the image again.")
    if not (_ENTRY_LEAST <= length <= _ENTRY_MOST and count <= _COUNT_MOST):
        raise ImageError("the partition table's header is damaged", actual=f"{count} entries of {length} bytes")
    file.seek(first * SECTOR)
    data = file.read(count * length)
    if zlib.crc32(data) != entries_crc:
        raise ImageError("the partition table's entries are damaged", action="Fetch the image again.")
    return tuple(
        _partition(number, data[offset : offset + length])
        for number, offset in enumerate(range(0, count * length, length), start=1)
        if any(data[offset : offset + 16])
    )


def _partition(number: int, entry: bytes) -> Partition:
    first, last = struct.unpack_from("<QQ", entry, 32)
    label = entry[56:128].decode("utf-16-le", "replace").partition("\0")[0]
    return Partition(number, first * SECTOR, (last - first + 1) * SECTOR, 0, label)
