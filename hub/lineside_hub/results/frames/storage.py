"""Storage of uploaded frames, complete and partial."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from lineside_hub.blobs import BlobStore, FolderBlobs, UrlBlobs
from lineside_hub.config import HubConfig

FRAMES_NAME = "frames"


def frame_blobs(config: HubConfig) -> BlobStore:
    """Returns the store of a hub's frames."""
    largest = config.frames.frame_max_bytes
    if config.frames.url:
        return UrlBlobs(config.frames.url, largest_bytes=largest)
    return FolderBlobs(Path(config.folder) / FRAMES_NAME, largest_bytes=largest)


def free_bytes(config: HubConfig) -> int:
    """Returns the free bytes on the disk of the hub's folder, which also holds the results."""
    return shutil.disk_usage(config.folder).free


ARRIVING_NAME = "frames-arriving"

PARTIAL_MAX_AGE_S = 7 * 86400.0


class PartialImages:
    """Images that are partly received: ``frames-arriving/<device>/<sha256>``, at most one a device.

    The size of the file is the progress, so that the device continues after a kill. It is not synced: damage by a
    power cut is found by the hash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ARRIVING_NAME

    def begin(self, device: str, sha256: str, size: int) -> int:
        """Starts or continues the image of a device; returns how many bytes of it are on disk.

        Args:
            device: Its name; another partial image of it is deleted.
            size: Of the image, in bytes.
        """
        path = self._path(device, sha256)
        for other in path.parent.iterdir() if path.parent.is_dir() else ():
            if other != path:
                other.unlink(missing_ok=True)
        if not path.exists():
            return 0
        have = path.stat().st_size
        if have > size:
            path.unlink()
            return 0
        return have

    def append(self, device: str, sha256: str, *, offset: int, data: bytes) -> None:
        """Writes bytes at ``offset``; the file ends behind them."""
        path = self._path(device, sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(offset)
            file.seek(offset)
            file.write(data)

    def read(self, device: str, sha256: str) -> bytes:
        """Returns the received bytes."""
        return self._path(device, sha256).read_bytes()

    def drop(self, device: str) -> None:
        """Deletes the partial image of a device."""
        shutil.rmtree(self._folder / device, ignore_errors=True)

    def tidy(self) -> None:
        """Deletes partial images that are older than a week."""
        before_s = time.time() - PARTIAL_MAX_AGE_S
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if folder.stat().st_mtime < before_s:
                    self.drop(folder.name)

    def _path(self, device: str, sha256: str) -> Path:
        return self._folder / device / sha256
