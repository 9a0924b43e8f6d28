"""Read ``.bmap`` files, which list the blocks of an image that hold data; the other blocks are not written.

Format 1.x and 2.x of https://github.com/yoctoproject/bmaptool, which is a program and no library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import msgspec

from lineside_boards.errors import ImageError

BMAP_MAX_BYTES = 16 << 20


class Bmap(msgspec.Struct, frozen=True):
    """A block map.

    Attributes:
        ranges: First and last block of each range that holds data, in order.
    """

    image_bytes: int
    block_bytes: int
    ranges: tuple[tuple[int, int], ...]

    def mapped(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yields start and end of the ranges with data within a piece of the image."""
        for first, last in self.ranges:
            start, end = first * self.block_bytes - offset, (last + 1) * self.block_bytes - offset
            if end > 0 and start < length:
                yield max(start, 0), min(end, length)


def read(path: Path) -> Bmap:
    """Reads a block map.

    Raises:
        ImageError: It isn't there or breaks the format.
    """
    try:
        data = path.read_bytes()
        if len(data) > BMAP_MAX_BYTES or b"<!ENTITY" in data or b"<!DOCTYPE" in data:
            raise ImageError(f"{path} is no block map", action="Leave --bmap out: then every block is written.")
        tree = ElementTree.fromstring(data)
        ranges = tuple(_range(node.text or "") for node in tree.iterfind("BlockMap/Range"))
        bmap = Bmap(_number(tree, "ImageSize"), _number(tree, "BlockSize"), ranges)
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise ImageError(f"{path}: {error}", action="Leave --bmap out: then every block is written.") from error
    if bmap.block_bytes <= 0 or any(first > last for first, last in ranges) or list(ranges) != sorted(ranges):
        raise ImageError(f"{path}: its ranges are out of order")
    return bmap


def _number(tree: ElementTree.Element, name: str) -> int:
    text = tree.findtext(name)
    if text is None:
        raise ValueError(f"{name} is missing")
    return int(text)


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", text)
    if found is None:
        raise ValueError(f"range {text!r}")
    return int(found[1]), int(found[2] or found[1])
