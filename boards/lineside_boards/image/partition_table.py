"""Partition tables of disk images: MBR and GPT, and the file systems in the partitions."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from lineside_boards.errors import ImageError

SECTOR = 512

_MBR_ENTRY = struct.Struct("<B3sB3sII")
_FIRST, _COUNT, _SIGNATURE, _PROTECTIVE = 446, 4, b"\x55\xaa", b"\xee"
_NO_CHS = b"\xfe\xff\xff"
"""Cylinder, head and sector of a disk that is addressed by sectors."""

_GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_ENTRY_MIN, _GPT_ENTRY_MAX, _GPT_COUNT_MAX = 128, 4096, 1024


class Partition(msgspec.Struct, frozen=True):
    """A part of a disk.

    Attributes:
        number: From 1, as the kernel counts them.
        start: First byte.
        size: In bytes.
        kind: MBR type, such as 0x0c for FAT32 or 0x83 for Linux; 0 with a GPT.
        label: Name in the partition table (GPT) or of the file system in it (FAT, ext4); empty if it has none.
        filesystem: ``fat``, ``ext4`` or empty.
    """

    number: int
    start: int
    size: int
    kind: int = 0
    label: str = ""
    filesystem: str = ""


def partitions(image: Path) -> tuple[Partition, ...]:
    """Returns the partitions of an image by number, with the labels of their file systems.

    Args:
        image: Uncompressed.

    Raises:
        ImageError: There is no partition table, or a partition ends outside the image.
    """
    size = image.stat().st_size
    with image.open("rb") as file:
        found = _read_gpt(file) if _sector(file)[_FIRST + 4 : _FIRST + 5] == _PROTECTIVE else _read_mbr(file)
        named = []
        for part in found:
            if part.start + part.size > size:
                raise ImageError(
                    f"{image}: partition {part.number} ends behind the image",
                    expected=f"at most {size} bytes",
                    actual=part.start + part.size,
                    action="The image is cut off: fetch it again.",
                )
            filesystem, label = _filesystem_of(file, part)
            named.append(msgspec.structs.replace(part, filesystem=filesystem, label=part.label or label))
    if not named:
        raise ImageError(f"{image} has no partitions", action="Is it a disk image? Is it still compressed?")
    return tuple(named)


def find(parts: tuple[Partition, ...], label: str, filesystem: str) -> Partition:
    """Returns a partition by its label; the largest of that file system if the label is empty.

    Raises:
        ImageError: There is none.
    """
    fitting = [part for part in parts if part.filesystem == filesystem]
    named = [part for part in fitting if part.label.lower() == label.lower()] if label else fitting
    if not named:
        present = ", ".join(f"{part.number}: {part.filesystem or '?'} {part.label!r}" for part in parts)
        raise ImageError("the image has another layout", expected=f"a {filesystem} partition {label!r}", actual=present)
    return max(named, key=lambda part: part.size)


def disk_id(file: BinaryIO) -> int:
    """Returns the disk's identifier, from which Linux derives ``PARTUUID``."""
    return int.from_bytes(_sector(file)[440:444], "little")


def write_mbr(image: Path, parts: Sequence[Partition], *, disk_id: int) -> None:
    """Writes a partition table into an image and keeps its boot code.

    Args:
        parts: At most four; the first is marked as bootable.
    """
    with image.open("r+b") as file:
        sector = bytearray(_sector(file).ljust(SECTOR, b"\0"))
        sector[440:444] = disk_id.to_bytes(4, "little")
        for index in range(_COUNT):
            entry = bytes(_MBR_ENTRY.size)
            if index < len(parts):
                part, active = parts[index], 0x80 if index == 0 else 0
                entry = _MBR_ENTRY.pack(active, _NO_CHS, part.kind, _NO_CHS, part.start // SECTOR, part.size // SECTOR)
            sector[_FIRST + index * _MBR_ENTRY.size : _FIRST + (index + 1) * _MBR_ENTRY.size] = entry
        sector[510:512] = _SIGNATURE
        file.seek(0)
        file.write(sector)


def _read_mbr(file: BinaryIO) -> tuple[Partition, ...]:
    """Four entries of 16 bytes at 446 of the first sector, and 55 aa; the primary partitions only."""
    sector = _sector(file)
    if sector[510:512] != _SIGNATURE:
        raise ImageError(
            "the image has no partition table", expected="55 aa at 510", actual=sector[510:512].hex(" ") or "no sector"
        )
    entries = [_MBR_ENTRY.unpack_from(sector, _FIRST + index * _MBR_ENTRY.size) for index in range(_COUNT)]
    return tuple(
        Partition(index + 1, start * SECTOR, count * SECTOR, kind)
        for index, (_, _, kind, _, start, count) in enumerate(entries)
        if kind and count
    )


def _sector(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(SECTOR)


def _read_gpt(file: BinaryIO) -> tuple[Partition, ...]:
    """UEFI 2.10, section 5.3; JetPack's images have it."""
    file.seek(SECTOR)
    sector = file.read(SECTOR)
    if sector[:8] != b"EFI PART" or len(sector) < SECTOR:
        raise ImageError("the partition table is damaged", expected="EFI PART in the second sector")
    _, _, size, crc, _, _, _, _, _, _, first, count, length, entries_crc = _GPT_HEADER.unpack_from(sector)
    if not 92 <= size <= SECTOR or zlib.crc32(sector[:16] + bytes(4) + sector[20:size]) != crc:
        raise ImageError("the partition table's header is damaged", action="Fetch the image again.")
    if not (_GPT_ENTRY_MIN <= length <= _GPT_ENTRY_MAX and count <= _GPT_COUNT_MAX):
        raise ImageError("the partition table's header is damaged", actual=f"{count} entries of {length} bytes")
    file.seek(first * SECTOR)
    data = file.read(count * length)
    if zlib.crc32(data) != entries_crc:
        raise ImageError("the partition table's entries are damaged", action="Fetch the image again.")
    return tuple(
        _gpt_partition(number, data[offset : offset + length])
        for number, offset in enumerate(range(0, count * length, length), start=1)
        if any(data[offset : offset + 16])
    )


def _gpt_partition(number: int, entry: bytes) -> Partition:
    first, last = struct.unpack_from("<QQ", entry, 32)
    label = entry[56:128].decode("utf-16-le", "replace").partition("\0")[0]
    return Partition(number, first * SECTOR, (last - first + 1) * SECTOR, 0, label)


def _filesystem_of(file: BinaryIO, part: Partition) -> tuple[str, str]:
    """Returns kind and label of a file system from its first sectors."""
    file.seek(part.start)
    head = file.read(2048)
    if head[0x438:0x43A] == b"\x53\xef":  # s_magic of ext2, 3 and 4
        return "ext4", head[0x478:0x488].split(b"\0")[0].decode(errors="replace")
    if head[510:512] == b"\x55\xaa" and (head[82:85] == b"FAT" or head[54:57] == b"FAT"):
        where = 71 if head[82:85] == b"FAT" else 43
        return "fat", head[where : where + 11].decode("ascii", "replace").strip()
    return "", ""
