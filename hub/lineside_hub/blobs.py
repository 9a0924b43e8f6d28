"""Content-addressed files in a folder or on any filesystem of `fsspec`: chunks of bundles, and frames."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from lineside_runtime.bundle import CHUNK_BYTES
from lineside_runtime.errors import ConfigError, DatabaseError, MissingExtraError
from lineside_runtime.files import fsync_folder, write_atomic

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobStore(Protocol):
    """Files named by the sha256 of their content. Readers compare what they get with the hash."""

    def read(self, digest: str) -> bytes | None:
        """Returns the content, at most a byte more than the largest blob; ``None`` if there is none."""

    def write(self, digest: str, data: bytes) -> None:
        """Writes a blob; an existing one is replaced."""

    def names(self) -> Iterator[str]:
        """Yields every name."""

    def remove(self, digest: str) -> None:
        """Deletes a blob if it exists."""


class FolderBlobs:
    """A local folder, ``ab/<sha256>``: each blob is synced and renamed, so that a power cut leaves none half written.

    Args:
        largest_bytes: Of a blob; no more than a byte beyond that is read.
    """

    def __init__(self, folder: Path, *, largest_bytes: int = CHUNK_BYTES) -> None:
        self._folder = folder
        self._largest_bytes = largest_bytes
        self._root = str(folder)

    def read(self, digest: str) -> bytes | None:
        """As `BlobStore.read`."""
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
        """As `BlobStore.write`."""
        path = self._path(digest)
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            fsync_folder(self._folder)
        write_atomic(path, data)

    def names(self) -> Iterator[str]:
        """As `BlobStore.names`."""
        for path in self._folder.glob("??/*"):
            if _DIGEST.fullmatch(path.name):
                yield path.name

    def remove(self, digest: str) -> None:
        """As `BlobStore.remove`."""
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest


class UrlBlobs:
    """Any filesystem of `fsspec`.

    Args:
        url: Such as ``file:///srv/chunks``, ``memory://chunks`` or ``s3://bucket/chunks``. What it needs to sign in
            comes from the filesystem's own configuration (``~/.config/fsspec``, the environment), never from the URL.
        largest_bytes: As for `FolderBlobs`.

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
        """As `BlobStore.read`."""
        try:
            with self._fs.open(self._path(digest), "rb") as file:
                data: bytes = file.read(self._largest_bytes + 1)
                return data
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from error

    def write(self, digest: str, data: bytes) -> None:
        """As `BlobStore.write`; a torn blob is found by its hash."""
        try:
            self._fs.makedirs(f"{self._root}/{digest[:2]}", exist_ok=True)
            with self._fs.open(self._path(digest), "wb") as file:
                file.write(data)
        except OSError as error:
            raise self._failed(error) from error

    def names(self) -> Iterator[str]:
        """As `BlobStore.names`."""
        try:
            found: list[Any] = self._fs.find(self._root)
        except OSError as error:
            raise self._failed(error) from error
        for path in found:
            name = str(path).rsplit("/", 1)[-1]
            if _DIGEST.fullmatch(name):
                yield name

    def remove(self, digest: str) -> None:
        """As `BlobStore.remove`."""
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
