"""An image file as a stream, plain or compressed with xz or zstd, and its copy with holes."""

from __future__ import annotations

import errno
import lzma
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from lineside_boards.errors import ImageError
from lineside_runtime.errors import DiskFullError, InputNotFoundError

PIECE = 4 << 20
_XZ, _ZSTD = b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"
_PACKED_PIECE = 1 << 17
"""Size of a zstd block, so that the output of one step stays small."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


BytesListener = Callable[[int], None]


def pieces(image: Path) -> Iterator[bytes]:
    """Yields an image's bytes, unpacked, in pieces of `PIECE` bytes; the last one may be shorter.

    Args:
        image: Plain, or compressed with xz or zstd.

    Raises:
        InputNotFoundError: It isn't there.
        ImageError: The compressed data is damaged or cut off.
    """
    try:
        file = image.open("rb")
    except OSError as error:
        raise InputNotFoundError(f"{image}: {error.strerror}", action="Give the path of an image.") from error
    with file:
        yield from _unpacked(file, image)


def _unpacked(file: BinaryIO, image: Path) -> Iterator[bytes]:
    import zstandard  # the host's alone, and only where an image is read

    magic = file.read(6)
    file.seek(0)
    reader: _Readable = file
    if magic.startswith(_XZ):
        reader = lzma.open(file)  # noqa: SIM115 - closed with the file below it
    elif magic.startswith(_ZSTD):
        reader = _Zstd(file)
    try:
        rest = b""
        while piece := _full(reader, rest):
            yield piece[:PIECE]
            rest = piece[PIECE:]
    except (lzma.LZMAError, EOFError, zstandard.ZstdError) as error:
        action = "It is damaged or was not fetched whole: fetch it again and compare its sha256."
        raise ImageError(f"{image} can't be unpacked: {error}", action=action) from error


class _Zstd:
    """Reads frames one after the other; zstandard's own reader does not notice a truncated file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame: Any = None
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """Returns up to ``size`` bytes; none at the end."""
        import zstandard

        while True:
            data, self._rest = self._rest or self._file.read(_PACKED_PIECE), b""
            if not data:
                if self._frame is not None:
                    raise EOFError("it is cut off")
                return b""
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            plain: bytes = self._frame.decompress(data)
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
            if plain:
                return plain


def _full(reader: _Readable, rest: bytes) -> bytes:
    """Reads until a piece is full or the file ends: decompressors return less or more than requested."""
    parts, have = [rest], len(rest)
    while have < PIECE and (more := reader.read(PIECE - have)):
        parts.append(more)
        have += len(more)
    return parts[1] if not rest and len(parts) == 2 else b"".join(parts)


def copy(image: Path, out: Path, progress: BytesListener = lambda done: None) -> None:
    """Copies an image, unpacked, with holes where it is empty.

    Args:
        image: Plain, ``.xz`` or ``.zst``.
        out: The copy; it must not exist.
        progress: Called with the bytes that are done.

    Raises:
        InputNotFoundError: There is no image.
        ImageError: It is damaged.
        DiskFullError: There is no space.
    """
    is_plain = plain_size(image) is not None
    target = out.open("xb")
    try:
        with target:
            if is_plain:
                _copy_plain(image, target, progress)
            else:
                _copy_pieces(image, target, progress)
    except (OSError, ImageError) as error:
        out.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DiskFullError(path=str(out)) from error
        raise


def plain_size(image: Path) -> int | None:
    """Returns the size of a plain image; ``None`` for a compressed one.

    Raises:
        InputNotFoundError: It isn't there.
    """
    try:
        with image.open("rb") as file:
            return None if file.read(6).startswith((_XZ, _ZSTD)) else os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputNotFoundError(f"{image}: {error.strerror}", action="Give the path of an image.") from error


def _copy_plain(image: Path, target: BinaryIO, progress: BytesListener) -> None:
    """The kernel copies the ranges with data, and shares blocks if the file system can."""
    with image.open("rb") as source:
        size, here = os.fstat(source.fileno()).st_size, 0
        target.truncate(size)
        while here < size:
            try:
                start = os.lseek(source.fileno(), here, os.SEEK_DATA)
            except OSError:
                break  # only a hole is left
            end = os.lseek(source.fileno(), start, os.SEEK_HOLE)
            while start < end:
                done = os.copy_file_range(source.fileno(), target.fileno(), min(end - start, 16 * PIECE), start, start)
                if not done:
                    raise ImageError(f"{image} became shorter while it was copied")
                start += done
                progress(start)
            here = end


def _copy_pieces(image: Path, target: BinaryIO, progress: BytesListener) -> None:
    done = 0
    for piece in pieces(image):
        if piece.count(0) != len(piece):
            os.pwrite(target.fileno(), piece, done)
        done += len(piece)
        progress(done)
    target.truncate(done)
