"""TUF over MQTT: a device installs only what a trusted key has signed, and nothing older than before.

`tuf.ngclient.Updater` does the checks of the specification; here it gets a fetcher over the link, a clock with a
floor, and a mapping of its exceptions:

| python-tuf | lineside | code |
| --- | --- | --- |
| ``UnsignedMetadataError`` | `SignatureError` | 3003 |
| ``BadVersionNumberError``, ``EqualVersionNumberError`` | `RollbackAttackError` | 3004 |
| ``ExpiredMetadataError`` | `ExpiredMetadataError` | 3005 |
| ``LengthOrHashMismatchError``, ``DownloadLengthMismatchError``, ``RepositoryError`` | `BundleIntegrityError` | 3002 |
| ``DownloadError``, ``DownloadHTTPError``, ``SlowRetrievalError`` | `FetchError` | 4004 |
| ``StorageError`` | `StoreError` | 4000 |

TUF's targets are the bundles' ``manifest.json`` and configurations; a bundle's chunks are content-addressed and
checked against its manifest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, TargetFile, Timestamp
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from lineside_link.clock import ClockFloor
from lineside_link.transfer.pull_window import RequestKind
from lineside_link.transfer.repository_client import METADATA_MAX_BYTES
from lineside_runtime.bundle import MANIFEST_MAX_BYTES
from lineside_runtime.errors import (
    BundleIntegrityError,
    DiskFullError,
    ExpiredMetadataError,
    FetchError,
    LinesideError,
    RollbackAttackError,
    SignatureError,
    StoreError,
    TargetNotFoundError,
)
from lineside_runtime.files import fsync_folder, is_disk_full

_BASE = "lineside:"

LAST_TARGET = "manifest.json"
"""Name of the last fetched target, in the folder ``targets``."""

MAPPED: dict[type[Exception], type[LinesideError]] = {
    tuf_errors.UnsignedMetadataError: SignatureError,
    tuf_errors.BadVersionNumberError: RollbackAttackError,
    tuf_errors.EqualVersionNumberError: RollbackAttackError,
    tuf_errors.ExpiredMetadataError: ExpiredMetadataError,
    tuf_errors.LengthOrHashMismatchError: BundleIntegrityError,
    tuf_errors.RepositoryError: BundleIntegrityError,
    tuf_errors.DownloadLengthMismatchError: BundleIntegrityError,
    tuf_errors.SlowRetrievalError: FetchError,
    tuf_errors.DownloadHTTPError: FetchError,
    tuf_errors.DownloadError: FetchError,
    tuf_errors.StorageError: StoreError,
}
"""Every exception of ``tuf.api.exceptions``, and its class of `LinesideError`."""

_TUF_ERRORS = (tuf_errors.RepositoryError, tuf_errors.DownloadError, tuf_errors.StorageError)


class TrustSource(Protocol):
    """Source of metadata and targets: the hub's repository, or an offline medium."""

    def stream(
        self, kind: RequestKind, path: str, *, max_bytes: int, should_stop: Callable[[], bool]
    ) -> Iterator[bytes]:  # pragma: no cover - an interface
        """As `lineside_link.transfer.repository_client.RepoClient.stream`."""
        ...


class _LinkFetcher(FetcherInterface):
    """Carries the updater's requests over the link."""

    def __init__(self, repo: TrustSource, should_stop: Callable[[], bool]) -> None:
        self._repo = repo
        self._should_stop = should_stop

    def _fetch(self, url: str) -> Iterator[bytes]:
        kind, _, path = url.removeprefix(_BASE).partition("/")
        bounds: dict[str, tuple[RequestKind, int]] = {
            "metadata": ("metadata", METADATA_MAX_BYTES),
            "target": ("target", MANIFEST_MAX_BYTES),
        }
        asked, limit = bounds[kind]
        # Mapped here and not by `FetcherInterface.fetch`, which does not see what a generator raises later.
        try:
            yield from self._repo.stream(asked, path, max_bytes=limit, should_stop=self._should_stop)
        except FetchError as error:
            if error.status == 404:
                raise tuf_errors.DownloadHTTPError(str(error), 404) from error
            raise tuf_errors.DownloadError(str(error)) from error


def _never() -> bool:
    return False


class TrustStore:
    """Trusted metadata of a device.

    Args:
        folder: Holds the metadata; created if it does not exist. It protects against older versions, so it is outside
            of the slots.
        root_bytes: The root metadata that was installed with the device: the anchor of every check, regardless of
            ``folder``.
    """

    def __init__(self, folder: Path, root_bytes: bytes, repo: TrustSource, clock_floor: ClockFloor) -> None:
        self._metadata = folder / "metadata"
        self._targets = folder / "targets"
        self._root_bytes = root_bytes
        self._repo = repo
        self._clock = clock_floor

    def refresh(self, *, should_stop: Callable[[], bool] = _never) -> None:
        """Checks for newer metadata.

        Args:
            should_stop: Looked at at least five times a second.
        """
        with _tuf_errors_mapped("metadata"):
            self._refreshed(should_stop)
            self._keep()

    def timestamp_field(self, name: str) -> object:
        """Returns a further field of the timestamp that `refresh` checked; ``None`` if there is none."""
        timestamp = Metadata[Timestamp].from_file(str(self._metadata / "timestamp.json")).signed
        return timestamp.unrecognized_fields.get(name)

    def fetch_target(
        self,
        target_path: str,
        sha256: str | None,
        *,
        max_bytes: int = MANIFEST_MAX_BYTES,
        should_stop: Callable[[], bool] = _never,
    ) -> bytes:
        """Checks for newer metadata and returns a signed manifest or configuration.

        Args:
            target_path: ``<group>/<name>-<version>.json`` or ``<group>/config-….toml``.
            sha256: Hash in the ``desired`` message; the group's key must have signed the same. ``None`` for any
                signed content.

        Raises:
            SignatureError: A signature is missing or of an untrusted key.
            RollbackAttackError: Metadata is older than before, or its parts are of different times.
            ExpiredMetadataError: Metadata has expired: it is withheld, or the clock is wrong.
            BundleIntegrityError: Metadata or target is damaged, too long, or not the signed or requested one.
            TargetNotFoundError: No role for this path names it.
            FetchError: The hub does not answer.
        """
        with _tuf_errors_mapped(target_path):
            updater = self._refreshed(should_stop)
            info = updater.get_targetinfo(target_path)
            data = self._download(updater, _wanted(info, target_path, sha256, max_bytes))
            self._keep()
            return data

    def _refreshed(self, should_stop: Callable[[], bool]) -> Updater:
        self._metadata.mkdir(parents=True, exist_ok=True)
        self._targets.mkdir(parents=True, exist_ok=True)
        updater = self._make_updater(should_stop)
        checked_at = self._clock.now()
        # The updater uses the system's time and has no public way to set another; without this a board whose clock fell
        # back to 1970 accepts expired metadata. A test covers it.
        updater._trusted_set.reference_time = checked_at
        updater.refresh()
        self._clock.raise_to(checked_at)
        return updater

    def _make_updater(self, should_stop: Callable[[], bool]) -> Updater:
        return Updater(
            str(self._metadata),
            f"{_BASE}metadata/",
            str(self._targets),
            f"{_BASE}target/",
            fetcher=_LinkFetcher(self._repo, should_stop),
            config=UpdaterConfig(max_root_rotations=64),
            bootstrap=self._root_bytes,
        )

    def _download(self, updater: Updater, info: TargetFile) -> bytes:
        """Fetches a target and keeps it, so that it is not fetched again after the link broke."""
        path = str(self._targets / LAST_TARGET)
        if updater.find_cached_target(info, path) is None:
            updater.download_target(info, path)
        return Path(path).read_bytes()

    def _keep(self) -> None:
        """Syncs the metadata to the disk: python-tuf renames without fsync, and a power cut could lose versions."""
        for path in self._metadata.rglob("*.json"):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_folder(self._metadata)


def _wanted(info: TargetFile | None, target_path: str, sha256: str | None, max_bytes: int) -> TargetFile:
    if info is None:
        raise TargetNotFoundError(f"no signed metadata names {target_path}")
    if info.length > max_bytes:
        raise BundleIntegrityError(target_path, expected=f"at most {max_bytes} bytes", actual=f"{info.length} bytes")
    signed = info.hashes.get("sha256")
    if sha256 is not None and signed != sha256:
        raise BundleIntegrityError(
            f"{target_path} was signed with another content than is asked for",
            expected=f"sha256 {sha256}",
            actual=signed,
            action="Push it again; nothing unsigned is installed.",
        )
    return info


@contextmanager
def _tuf_errors_mapped(what: str) -> Iterator[None]:
    try:
        yield
    except _TUF_ERRORS as error:
        if isinstance(error.__cause__, LinesideError) and not isinstance(error, tuf_errors.DownloadHTTPError):
            raise error.__cause__ from error
        kind = next(MAPPED[base] for base in type(error).__mro__ if base in MAPPED)
        raise kind(f"{what}: {error}") from error
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(f"no room for the metadata of {what}") from error
