"""Chunks of bundles, stored under their hash in ``chunks/`` or where ``chunks.url`` says.

Equal chunks of two versions are stored once. The store is not trusted: readers compare a chunk with the hash in
a signed manifest. A device does so with all that it receives, so the hub hashes a chunk for it only if the device
reports it as damaged; a damaged chunk counts as missing then, and pushing its bundle again replaces it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from lineside_hub.blobs import BlobStore, FolderBlobs, UrlBlobs
from lineside_hub.repository.layout import CHUNKS
from lineside_runtime.bundle import CHUNK_BYTES, FileEntry
from lineside_runtime.errors import BundleIntegrityError

_log = logging.getLogger("lineside.hub.chunks")

URL_NAME = "chunks.url"
"""Name of the file in the hub's folder with the URL of the chunks; without it they are in ``chunks``."""


def chunk_blobs(folder: Path) -> BlobStore:
    """Returns the store of a hub's chunks.

    Raises:
        ConfigError: ``chunks.url`` names nothing usable.
    """
    try:
        url = (folder / URL_NAME).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return FolderBlobs(folder / CHUNKS)
    return UrlBlobs(url)


class ChunkStore:
    """The chunks of all bundles.

    Attributes:
        rotten: How many damaged chunks were read.
    """

    def __init__(self, blobs: BlobStore | Path) -> None:
        self.blobs: BlobStore = FolderBlobs(blobs) if isinstance(blobs, Path) else blobs
        self.rotten = 0

    def put(self, data: bytes) -> str:
        """Stores one chunk; a damaged one is replaced. Returns its sha256, hexadecimal.

        Args:
            data: At most `CHUNK_BYTES` bytes.

        Raises:
            BundleIntegrityError: It is larger than a chunk may be.
        """
        if len(data) > CHUNK_BYTES:
            raise BundleIntegrityError("chunk too large", expected=f"at most {CHUNK_BYTES} bytes", actual=len(data))
        digest = hashlib.sha256(data).hexdigest()
        if self.blobs.read(digest) != data:
            self.blobs.write(digest, data)
        return digest

    def get(self, digest: str) -> bytes | None:
        """Returns a chunk if its content has its hash; a damaged one is logged and counts as missing.

        Args:
            digest: sha256, 64 hexadecimal digits; the caller has checked that.
        """
        data = self.blobs.read(digest)
        if data is None or hashlib.sha256(data).hexdigest() == digest:
            return data
        self.rotten += 1
        _log.error("chunk %s is rotten and not served; push its bundle again to replace it", digest)
        return None

    def pieces(self, entry: FileEntry, whose: str) -> Iterator[bytes]:
        """Yields the chunks of a file.

        Args:
            whose: For the message: the bundle that has the file.

        Raises:
            BundleIntegrityError: One is missing or damaged.
        """
        for digest in entry.chunks:
            piece = self.get(digest)
            if piece is None:
                raise BundleIntegrityError(f"chunk {digest} of {whose} is missing", action="Push it again.")
            yield piece

    def get_unchecked(self, digest: str) -> bytes | None:
        """Returns a chunk for a caller that compares it with the hash itself.

        Returns:
            At most `CHUNK_BYTES` bytes; ``None`` if there is none, or it is too large.
        """
        data = self.blobs.read(digest)
        return data if data is None or len(data) <= CHUNK_BYTES else self.get(digest)
