"""`Partition`, and the partitions of an image, whichever of the two tables it has."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import msgspec

from lineside_runtime.errors import ImageError

SECTOR = 512


class Partition(msgspec.Struct, frozen=True):
    """A part of a disk.

    Attributes:
        number: From 1, as the kernel counts.
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
    """Returns the partitions of an image, by number, with what their file systems call themselves.

    Args:
        image: Not compressed.

    Raises:
        ImageError: It has no partition table, or one that leads outside the image.
    """
    from lineside_boards.image import gpt, mbr

    size = image.stat().st_size
    with image.open("rb") as file:
        found = gpt.read(file) if mbr.is_protective(file) else mbr.read(file)
        named = []
        for part in found:
            if part.start + part.size > size:
                raise ImageError(
                    f"{image}: partition {part.number} ends behind the image",
                    expected=f"at most {size} bytes",
                    actual=part.start + part.size,
                    action="The image is cut off: fetch it again.",
                )
            filesystem, label = _look(file, part)
            named.append(msgspec.structs.replace(part, filesystem=filesystem, label=part.label or label))
    if not named:
        raise ImageError(f"{image} has no partitions", action="Is it a disk image? Is it still compressed?")
    return tuple(named)


def _look(file: BinaryIO, part: Partition) -> tuple[str, str]:
    """Kind and label of a file system by its first sectors."""
    file.seek(part.start)
    head = file.read(2048)
    if head[0x438:0x43A] == b"\x53\xef":  # s_magic of ext2, 3 and 4
        return "ext4", head[0x478:0x488].split(b"\0")[0].decode(errors="replace")
    if head[510:512] == b"\x55\xaa" and (head[82:85] == b"FAT" or head[54:57] == b"FAT"):
        where = 71 if head[82:85] == b"FAT" else 43
        return "fat", head[where : where + 11].decode("ascii", "replace").strip()
    return "", ""


def find(parts: tuple[Partition, ...], label: str, filesystem: str) -> Partition:
    """Returns a partition by its label; without one the largest of that file system.

    Raises:
        ImageError: There is none.
    """
    fitting = [part for part in parts if part.filesystem == filesystem]
    named = [part for part in fitting if part.label.lower() == label.lower()] if label else fitting
    if not named:
        told = ", ".join(f"{part.number}: {part.filesystem or '?'} {part.label!r}" for part in parts)
        raise ImageError("the image is laid out otherwise", expected=f"a {filesystem} partition {label!r}", actual=told)
    return max(named, key=lambda part: part.size)
