"""`FatVolume`: the files of a FAT partition inside an image, through ChaN's FatFs (package ``fatfs-ng``).

pyfatfs, the other package that needs no mount, does not start on Python 3.13. Names are case-insensitive; a leading
slash of a path is optional.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from fatfs import Partition as _FatFs
from fatfs import PartitionExtended
from fatfs.diskio import Disk

from lineside_boards.errors import ImageError, ReadBackError
from lineside_boards.image.partition_table import SECTOR, Partition


class _Window(Disk):  # type: ignore[misc]  # fatfs-ng has no type information
    """The sectors of one partition of a file.

    FatFs calls this from C, through which no exception passes; it is kept for `check`.
    """

    def __init__(self, path: Path, part: Partition) -> None:
        super().__init__()
        self._problem: OSError | None = None
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._part = part

    def ioctl_get_sector_count(self) -> int:
        return self._part.size // SECTOR

    def ioctl_get_sector_size(self) -> int:
        return SECTOR

    def ioctl_get_block_size(self) -> int:
        return 1

    def ioctl_sync(self) -> None:
        pass  # the whole image is brought to the disk once, at the end

    def read(self, sector: int, count: int) -> bytes:
        return os.pread(self._descriptor, count * SECTOR, self._part.start + sector * SECTOR)

    def write(self, sector: int, count: int, buff: bytes) -> None:
        data = memoryview(buff)[: count * SECTOR]
        try:
            if sector + count > self._part.size // SECTOR:
                raise OSError(f"write behind the partition: sector {sector + count}")
            os.pwrite(self._descriptor, data, self._part.start + sector * SECTOR)
        except OSError as error:
            self._problem = self._problem or error

    def check(self) -> None:
        """Raises the first error since the last call."""
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def close(self) -> None:
        os.close(self._descriptor)


class FatVolume:
    """A mounted FAT partition; use it in a ``with``.

    Raises:
        ImageError: It is no FAT file system.
    """

    def __init__(self, image: Path, part: Partition) -> None:
        self._window = _Window(image, part)
        self._fat = _FatFs(self._window)
        try:
            self._fat.mount()
        except Exception as error:  # fatfs-ng raises its own class, plain Exception and OSError
            self._window.close()
            raise ImageError(f"{image}: partition {part.number} is no FAT file system: {error}") from error
        self._files = PartitionExtended(self._fat)

    def __enter__(self) -> FatVolume:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._errors("/", "written to its end"):
                    self._fat.unmount()
            else:
                self._fat.unmount()  # the earlier error is the one to report
        finally:
            self._window.close()

    def exists(self, path: str) -> bool:
        """Returns whether a file or folder exists."""
        return bool(self._files.exists(_rooted(path)))

    def names(self, folder: str = "/") -> list[str]:
        """Returns the names in a folder.

        Raises:
            ImageError: It can't be read.
        """
        with self._errors(folder, "read"):
            return list(self._files.listdir(_rooted(folder)))

    def read(self, path: str) -> bytes:
        """Reads a file.

        Raises:
            ImageError: It isn't there or can't be read.
        """
        with self._errors(path, "read"):
            return bytes(self._files.read_file(_rooted(path)))

    def write(self, path: str, data: bytes) -> None:
        """Writes or replaces a file, and reads it back.

        Raises:
            ImageError: There is no space, or the file system is damaged.
            ReadBackError: The content that was read back differs.
        """
        with self._errors(path, "written"):
            if self.exists(path):
                self._files.remove(_rooted(path))
            self._files.write_file(_rooted(path), data)
        if self.read(path) != data:
            raise ReadBackError(
                f"{path} of the FAT partition",
                expected=f"the {len(data)} bytes that were written",
                action="Is the partition full?",
            )

    @contextlib.contextmanager
    def _errors(self, path: str, verb: str) -> Iterator[None]:
        """fatfs-ng raises OSError, its own class and plain Exception."""
        try:
            yield
            self._window.check()
        except Exception as error:
            raise ImageError(f"{path} of the FAT partition can't be {verb}: {error}", action="Is it full?") from error


def _rooted(path: str) -> str:
    return f"/{path.lstrip('/')}"
