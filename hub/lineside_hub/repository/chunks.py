"""Chunks of bundles, stored under their hash: ``chunks/ab/<sha256>``.

Equal pieces of two versions are stored once, and a piece can be checked by whoever holds its name. By default they lie
in the hub's own folder; any filesystem that `fsspec` knows can hold them instead, by its URL. Whatever it is, it
isn't trusted: who uses a piece compares it with the hash that a signed manifest names. A device does that with all that
it is sent, so the hub hashes a piece for it only when it says that the piece came wrong; a rotten one counts as absent
then, and pushing its bundle again heals it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from lineside_runtime.bundle import CHUNK_BYTES
from lineside_runtime.errors import BundleIntegrityError, ConfigError, DatabaseError, MissingExtraError
from lineside_runtime.files import fsync_folder, write_atomic

_log = logging.getLogger("lineside.hub.chunks")

URL_NAME = "chunks.url"
"""Name of the file in the hub's folder that says where the pieces are; without it they are in ``chunks``."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ChunkPlace(Protocol):
    """Where pieces lie."""

    def read(self, digest: str) -> bytes | None:
        """Returns what stands under a name, at most a byte more than a piece may have; ``None`` if nothing does."""

    def write(self, digest: str, data: bytes) -> None:
        """Puts it there; what was there is replaced."""

    def names(self) -> Iterator[str]:
        """Yields every name."""

    def remove(self, digest: str) -> None:
        """Takes it away; does nothing if it is not there."""


class FolderPlace:
    """A local folder: each piece is synced and renamed, so that a power cut leaves none half written.

    Args:
        largest_bytes: Of a piece; no more than a byte beyond that is read.
    """

    def __init__(self, folder: Path, *, largest_bytes: int = CHUNK_BYTES) -> None:
        self._folder = folder
        self._largest_bytes = largest_bytes
        self._root = str(folder)

    def read(self, digest: str) -> bytes | None:
        """As `ChunkPlace.read`."""
        # A push reads thousands of them: pathlib and a buffered file took three times as long.
        try:
            descriptor = os.open(f"{self._root}/{digest[:2]}/{digest}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return os.read(descriptor, self._largest_bytes + 1)
        finally:
            os.close(descriptor)

    def write(self, digest: str, data: bytes) -> None:
        """As `ChunkPlace.write`."""
        path = self._path(digest)
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            fsync_folder(self._folder)
        write_atomic(path, data)

    def names(self) -> Iterator[str]:
        """As `ChunkPlace.names`."""
        for path in self._folder.glob("??/*"):
            if _DIGEST.fullmatch(path.name):
                yield path.name

    def remove(self, digest: str) -> None:
        """As `ChunkPlace.remove`."""
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest


class UrlPlace:
    """Any filesystem of `fsspec`.

    Args:
        url: Such as ``file:///srv/chunks``, ``memory://chunks`` or ``s3://bucket/chunks``. What it needs to sign in
            comes from the filesystem's own configuration (``~/.config/fsspec``, the environment), never from the URL.
        largest_bytes: As for `FolderPlace`.

    Raises:
        ConfigError: The URL is not usable, or holds a password.
    """

    def __init__(self, url: str, *, largest_bytes: int = CHUNK_BYTES) -> None:
        if re.search(r"://[^/]*:[^/]*@", url):
            raise ConfigError(
                "the URL of the chunks holds a password", action="Use the filesystem's own configuration."
            )
        try:
            import fsspec

            self._fs, path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            action = "Install the package that the message names, with lineside[convert]."
            raise MissingExtraError(f"no filesystem for {url.split('://')[0]}://: {error}", action=action) from error
        except (ValueError, OSError) as error:
            raise ConfigError("the URL of the chunks", expected="a URL that fsspec can use here", actual=url) from error
        self._largest_bytes = largest_bytes
        self._root = str(path).rstrip("/")
        self._url = url

    def read(self, digest: str) -> bytes | None:
        """As `ChunkPlace.read`."""
        try:
            with self._fs.open(self._path(digest), "rb") as file:
                data: bytes = file.read(self._largest_bytes + 1)
                return data
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from error

    def write(self, digest: str, data: bytes) -> None:
        """As `ChunkPlace.write`; where the filesystem can't do it at once, a torn piece is found out by its hash."""
        try:
            self._fs.makedirs(f"{self._root}/{digest[:2]}", exist_ok=True)
            with self._fs.open(self._path(digest), "wb") as file:
                file.write(data)
        except OSError as error:
            raise self._failed(error) from error

    def names(self) -> Iterator[str]:
        """As `ChunkPlace.names`."""
        try:
            found: list[Any] = self._fs.find(self._root)
        except OSError as error:
            raise self._failed(error) from error
        for path in found:
            name = str(path).rsplit("/", 1)[-1]
            if _DIGEST.fullmatch(name):
                yield name

    def remove(self, digest: str) -> None:
        """As `ChunkPlace.remove`."""
        try:
            self._fs.rm_file(self._path(digest))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed(error) from error

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"

    def _failed(self, error: OSError) -> DatabaseError:
        return DatabaseError(f"{self._url}: {error}", action="Check the filesystem that holds the chunks.")


def place_of(folder: Path) -> ChunkPlace:
    """Returns where the pieces of a hub are.

    Raises:
        ConfigError: ``chunks.url`` names nothing usable.
    """
    try:
        url = (folder / URL_NAME).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return FolderPlace(folder / "chunks")
    return UrlPlace(url)


class ChunkStore:
    """Content-addressed pieces.

    Attributes:
        rotten: How many reads met a piece that no longer has its own hash.
    """

    def __init__(self, place: ChunkPlace | Path) -> None:
        self.place: ChunkPlace = FolderPlace(place) if isinstance(place, Path) else place
        self.rotten = 0

    def put(self, data: bytes) -> str:
        """Stores one piece; one that is already there and whole is left alone, a rotten one is replaced.

        Args:
            data: At most `CHUNK_BYTES` bytes.

        Returns:
            Its sha256, hexadecimal.

        Raises:
            BundleIntegrityError: It is larger than a chunk may be.
        """
        if len(data) > CHUNK_BYTES:
            raise BundleIntegrityError("chunk too large", expected=f"at most {CHUNK_BYTES} bytes", actual=len(data))
        digest = hashlib.sha256(data).hexdigest()
        if self.place.read(digest) != data:
            self.place.write(digest, data)
        return digest

    def get(self, digest: str) -> bytes | None:
        """Returns a piece whose content has the hash that it is called by.

        A rotten piece is not served: it counts as absent, is logged, and pushing its bundle again heals it.

        Args:
            digest: sha256, 64 hexadecimal digits; the caller has checked that.
        """
        data = self.place.read(digest)
        if data is None or hashlib.sha256(data).hexdigest() == digest:
            return data
        self.rotten += 1
        _log.error("chunk %s is rotten and not served; push its bundle again to replace it", digest)
        return None

    def get_unchecked(self, digest: str) -> bytes | None:
        """Returns what stands under a name, for somebody who compares it with the hash himself.

        Args:
            digest: As for `get`.

        Returns:
            At most `CHUNK_BYTES` bytes; ``None`` if nothing stands there, or something larger than a piece.
        """
        data = self.place.read(digest)
        return data if data is None or len(data) <= CHUNK_BYTES else self.get(digest)
