"""Write an image to a card, so that the card is either complete and verified or does not boot.

1. The disk is checked and opened with ``O_EXCL``: the kernel refuses one that is in use.
2. Its first MiB, which holds the partition table, is zeroed and synced.
3. Everything behind the first MiB is unpacked, written and synced.
4. All of that is read back without the page cache and compared piece by piece.
5. The first MiB is written, synced and read back.

A kill before step 5 leaves a card that does not boot; the same command starts from the beginning.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
import xxhash

from lineside_boards import disk as disks
from lineside_boards.bmap import Bmap
from lineside_boards.errors import FlashError, ImageError, ReadBackError, UnsafeTargetError
from lineside_boards.image.image_file import PIECE, pieces, plain_size

HEAD_BYTES = 1 << 20
_BLOCK = 4096

BLKGETSIZE64, BLKFLSBUF, BLKRRPART = 0x80081272, 0x1261, 0x125F
"""ioctls of ``linux/fs.h``."""

Stage = Literal["write", "read back", "finish"]
StageListener = Callable[[Stage, int], None]


class FlashResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `write`.

    Attributes:
        image_bytes: Size of the unpacked image.
        written_bytes: Less than ``image_bytes`` with a block map.
        sha256: Of the unpacked image, if one was expected; else empty.
    """

    device: Path
    image_bytes: int
    written_bytes: int
    sha256: str = ""


class _Piece(msgspec.Struct, frozen=True):
    """A range that was written, with its xxh3 hash."""

    offset: int
    length: int
    digest: bytes


def write(
    image: Path,
    device: Path,
    *,
    bmap: Bmap | None = None,
    sha256: str = "",
    loop: bool = False,
    progress: StageListener = lambda stage, done: None,
) -> FlashResult:
    """Writes an image to a disk and reads it back.

    Args:
        image: Plain, ``.xz`` or ``.zst``.
        device: Such as ``/dev/sda``.
        bmap: Blocks with data; the other blocks are not written.
        sha256: Of the unpacked image, if known; with a wrong one the card is left unbootable.
        loop: Whether a loop device is accepted.
        progress: Called with the stage and the bytes that are done.

    Raises:
        UnsafeTargetError: The disk is in use, built in, too small, or not there.
        InputNotFoundError: There is no image.
        ImageError: The image is damaged, cut off, or not the expected one.
        FlashError: Writing failed, or the disk is gone.
        ReadBackError: The data that was read back differs.
    """
    needed = (plain_size(image) or 0) if bmap is None else bmap.image_bytes
    disk = disks.look(device)
    disks.check(disk, needed_bytes=needed, loop=loop)
    descriptor = _open(disk)
    try:
        with _device_errors(disk):
            return _Writer(descriptor, disk, progress).run(image, bmap, sha256)
    finally:
        os.close(descriptor)


def _open(disk: disks.Disk) -> int:
    try:
        return os.open(disk.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        action = {
            errno.EBUSY: "Something uses it: unmount it (lsblk shows where), and close the file manager's window.",
            errno.EACCES: "Run it with sudo, or as a member of the group that owns the disk.",
            errno.ENOMEDIUM: "Put a card into the reader.",
        }.get(error.errno or 0)
        raise UnsafeTargetError(f"{disk.path} can't be opened: {error.strerror}", action=action) from error


@contextlib.contextmanager
def _device_errors(disk: disks.Disk) -> Iterator[None]:
    """Maps errors of the kernel while we write; the image's own errors pass."""
    try:
        yield
    except OSError as error:
        gone = error.errno in (errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM, errno.ENOENT)
        what = "is gone" if gone else f"fails: {error.strerror}"
        action = "Put it in again, and run the same command: it begins anew." if gone else None
        raise FlashError(f"{disk.path} {what}; what is on it doesn't start", action=action) from error


class _Writer:
    def __init__(self, descriptor: int, disk: disks.Disk, progress: StageListener) -> None:
        self._descriptor = descriptor
        self._disk = disk
        self._progress = progress
        self._size = struct.unpack("Q", fcntl.ioctl(descriptor, BLKGETSIZE64, bytes(8)))[0]
        self._done: list[_Piece] = []

    def run(self, image: Path, bmap: Bmap | None, sha256: str) -> FlashResult:
        self._put(bytes(HEAD_BYTES), 0)
        os.fsync(self._descriptor)
        head, size, found = self._body(image, bmap, sha256)
        os.fsync(self._descriptor)
        self._read_back(self._done)
        self._progress("finish", 0)
        self._put(head, 0)
        os.fsync(self._descriptor)
        self._read_back([_Piece(0, len(head), xxhash.xxh3_128_digest(head))])
        with contextlib.suppress(OSError):  # a loop device without partitions, or a disk that the desktop has opened
            fcntl.ioctl(self._descriptor, BLKRRPART)
        written = sum(piece.length for piece in self._done) + len(head)
        return FlashResult(device=self._disk.path, image_bytes=size, written_bytes=written, sha256=found)

    def _body(self, image: Path, bmap: Bmap | None, sha256: str) -> tuple[bytes, int, str]:
        """Writes everything behind the first MiB; returns that MiB, the image's size and its sha256."""
        head, offset, digest = b"", 0, hashlib.sha256()
        for piece in pieces(image):
            if offset + len(piece) > self._size:
                needed = f"more than {offset + len(piece)} bytes"
                raise UnsafeTargetError(
                    f"{self._disk.path} is too small; it doesn't start now", expected=needed, actual=self._size
                )
            if sha256:
                digest.update(piece)
            skip = HEAD_BYTES if offset == 0 else 0
            head = piece[:skip] if offset == 0 else head
            for start, end in bmap.mapped(offset, len(piece)) if bmap is not None else ((0, len(piece)),):
                if end > max(start, skip):
                    self._write_piece(memoryview(piece)[max(start, skip) : end], offset + max(start, skip))
            offset += len(piece)
            self._progress("write", offset)
        self._check_image(image, offset, bmap, digest.hexdigest() if sha256 else "", sha256)
        return head, offset, digest.hexdigest() if sha256 else ""

    def _check_image(self, image: Path, size: int, bmap: Bmap | None, found: str, sha256: str) -> None:
        action = "Fetch the image again. The disk doesn't start now."
        if found.lower() != sha256.lower():
            raise ImageError(f"{image} is not the expected image", expected=sha256, actual=found, action=action)
        if bmap is not None and size != bmap.image_bytes:
            raise ImageError(f"{image} is not the block map's", expected=bmap.image_bytes, actual=size, action=action)
        if size <= HEAD_BYTES:
            raise ImageError(f"{image} is no disk image", expected=f"more than {HEAD_BYTES} bytes", actual=size)

    def _write_piece(self, data: memoryview, offset: int) -> None:
        self._put(data, offset)
        # Linux starts to write a range back when it is marked as not needed: the disk is busy from the start, and the
        # progress is that of the disk and not of the page cache.
        os.posix_fadvise(self._descriptor, offset, len(data), os.POSIX_FADV_DONTNEED)
        self._done.append(_Piece(offset, len(data), xxhash.xxh3_128_digest(data)))

    def _put(self, data: bytes | memoryview, offset: int) -> None:
        """A write may be short; zero bytes is a failure."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._descriptor, view, offset)
            if count <= 0:
                raise OSError(errno.EIO, "the disk takes no more")
            view, offset = view[count:], offset + count

    def _read_back(self, wanted: list[_Piece]) -> None:
        fcntl.ioctl(self._descriptor, BLKFLSBUF)
        descriptor = os.open(self._disk.path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        buffer = mmap.mmap(-1, PIECE + 2 * _BLOCK)  # O_DIRECT needs memory aligned to a page
        try:
            for piece in wanted:
                data = _read_direct(descriptor, buffer, piece)
                if xxhash.xxh3_128_digest(data) != piece.digest:
                    raise ReadBackError(
                        f"{self._disk.path} gives back other bytes than were written; it doesn't start now",
                        expected=f"what was written to bytes {piece.offset} to {piece.offset + piece.length}",
                    )
                data.release()
                self._progress("read back", piece.offset + piece.length)
        finally:
            os.close(descriptor)
            with contextlib.suppress(BufferError):  # a traceback may still hold a view
                buffer.close()


def _read_direct(descriptor: int, buffer: mmap.mmap, piece: _Piece) -> memoryview:
    """Reads the whole blocks around a piece and returns the piece."""
    start = piece.offset // _BLOCK * _BLOCK
    wanted = piece.offset + piece.length - start
    got = 0
    while got < wanted:
        length = -(-(wanted - got) // _BLOCK) * _BLOCK
        count = os.preadv(descriptor, [memoryview(buffer)[got : got + length]], start + got)
        if count <= 0:
            raise OSError(errno.ENODEV, "the disk ends early")
        got += count
    return memoryview(buffer)[piece.offset - start : wanted]
