"""`ChunkStore`: pieces of bundles under the name of their own hash, ``chunks/ab/<sha256>``.

Equal pieces of two versions are stored once, and a piece can be checked by whoever holds its name.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from lineside_runtime.bundle import CHUNK_BYTES
from lineside_runtime.errors import BundleIntegrityError
from lineside_runtime.files import fsync_folder, write_atomic

_log = logging.getLogger("lineside.hub.chunks")


class ChunkStore:
    """Content-addressed pieces in a folder.

    Attributes:
        folder: Where they stand.
        rotten: How many reads met a file that no longer has its own hash.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rotten = 0

    def put(self, data: bytes) -> str:
        """Stores one piece; one that is already there and whole is left alone, a rotten one is replaced.

        Args:
            data: At most `CHUNK_BYTES` bytes.

        Returns:
            Its sha256, hexadecimal.

        Raises:
            BundleIntegrityError: It is larger than a chunk may be.
            DiskFullError: There is no room.
        """
        if len(data) > CHUNK_BYTES:
            raise BundleIntegrityError("chunk too large", expected=f"at most {CHUNK_BYTES} bytes", actual=len(data))
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        if not path.exists() or _read(path) != data:
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                fsync_folder(self.folder)
            write_atomic(path, data)
        return digest

    def get(self, digest: str) -> bytes | None:
        """Returns a piece whose content has the hash that it is called by.

        A rotten file is not served: it counts as absent, is logged, and pushing its bundle again heals it.

        Args:
            digest: sha256, 64 hexadecimal digits; the caller has checked that.
        """
        path = self._path(digest)
        try:
            data = _read(path)
        except FileNotFoundError:
            return None
        if hashlib.sha256(data).hexdigest() == digest:
            return data
        self.rotten += 1
        _log.error("chunk %s is rotten on disk and not served; push its bundle again to replace it", path)
        return None

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(CHUNK_BYTES + 1)
