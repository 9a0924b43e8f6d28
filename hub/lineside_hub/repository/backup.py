"""Backup and restore of a hub.

A backup is one tar file: the database by SQLite's backup API (consistent while the hub writes), the repository under
its lock, keys, identity, and the chunks, the frames and the files that ``hub.toml`` names if they are in the hub's
folder. A restore deletes the rows of
frames that are not in the backup: a device that still has such a frame sends it again.

After a restore, devices remember later states than the hub. Two remedies:

- The hub's generations start a new epoch.
- Signed versions older than those that devices have seen look like an attack. Rotating the keys of snapshot and
  timestamp makes devices forget the versions (TUF specification, section 5.3.11); it needs the root keys.

Devices report rows that they have deleted since, and the hub continues behind the gap (`lineside_hub.results.writer`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lineside_hub.blobs import FolderBlobs
from lineside_hub.config import CONFIG_NAME, IDENTITY_NAME, load_config, named_files
from lineside_hub.folder_lock import LOCK_NAME, folder_lock
from lineside_hub.identity.secure_site import ACCESS_NAME, BROKER_NAME
from lineside_hub.repository.layout import CHUNKS, METADATA, OFFLINE_KEYS, ONLINE_KEYS, TARGETS
from lineside_hub.repository.repository import Repository
from lineside_hub.results import database as hub_database
from lineside_hub.results.database import Database, mapped_errors
from lineside_hub.results.frames.storage import FRAMES_NAME
from lineside_runtime.errors import (
    BundleFormatError,
    ConfigError,
    DiskFullError,
    InputError,
    InputNotFoundError,
    SignatureError,
)
from lineside_runtime.files import fsync_folder, is_disk_full, scratch_folder, write_atomic

_PARTS = ("hub.toml", "root.json", "chunks.url", OFFLINE_KEYS, ONLINE_KEYS, METADATA, TARGETS, "identity")

STAGING = ".restoring"
"""Folder in a hub's folder while it is restored: what a kill leaves is no hub, and the next restore removes it."""

_log = logging.getLogger("lineside.hub.backup")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """Content of a backup.

    Attributes:
        frames: How many images of parts are in it.
    """

    path: Path
    files: int
    bytes: int
    chunks: bool
    frames: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """Outcome of a restore.

    Attributes:
        rotated: Whether snapshot and timestamp have new keys; if not, `lineside hub keys rotate snapshot timestamp`
            with the root keys is needed before devices that saw later versions accept anything.
        frames_missing: Frames in the database that are not in the backup.
    """

    folder: Path
    epoch: int
    rotated: bool
    frames_missing: int = 0


def backup(
    folder: Path | str, out: Path, *, chunks: bool = True, offline_keys: bool = True, frames: bool = True
) -> BackupReport:
    """Writes a backup while the hub runs; only pushes and renewals wait.

    Args:
        out: The file, mode 0600: it contains keys.
        offline_keys: Whether to include the keys of persons, encrypted as they are on disk.

    Raises:
        InputNotFoundError: There is no repository.
    """
    hub = Path(folder).resolve()
    Repository.open(hub)
    temporary = out.with_name(f".{out.name}.tmp")
    count = 0
    local = chunks and not (hub / "chunks.url").exists()
    try:
        with scratch_folder(out.resolve()) as scratch:
            copy = _copy_database(hub, scratch)
            with _private(temporary) as file, tarfile.open(fileobj=file, mode="w") as tar, folder_lock(hub):
                tar.add(copy, arcname=hub_database.NAME)
                for path in _files(hub, chunks=local, offline_keys=offline_keys):
                    tar.add(path, arcname=str(path.relative_to(hub)), recursive=False)
                    count += 1
                kept = _add_frames(tar, hub) if frames else 0
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(out.resolve().parent)
    return BackupReport(path=out, files=count + kept + 1, bytes=out.stat().st_size, chunks=local, frames=kept)


def _add_frames(tar: tarfile.TarFile, hub: Path) -> int:
    """Adds the stored images; one that retention deletes meanwhile is left out."""
    count = 0
    for digest in sorted(FolderBlobs(hub / FRAMES_NAME).names()):
        path = hub / FRAMES_NAME / digest[:2] / digest
        with contextlib.suppress(FileNotFoundError):
            tar.add(path, arcname=str(path.relative_to(hub)))
            count += 1
    return count


@contextlib.contextmanager
def _private(path: Path) -> Iterator[IO[bytes]]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _copy_database(hub: Path, scratch: Path) -> Path:
    Database.open(hub).close()
    target = scratch / hub_database.NAME
    try:
        with (
            mapped_errors(hub / hub_database.NAME),
            contextlib.closing(sqlite3.connect(hub / hub_database.NAME)) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
    except DiskFullError as error:
        raise DiskFullError(path=str(scratch.parent)) from error
    return target


def _files(hub: Path, *, chunks: bool, offline_keys: bool) -> Iterator[Path]:
    for name in (*_PARTS, *([CHUNKS] if chunks else [])):
        part = hub / name
        if name == OFFLINE_KEYS and not offline_keys:
            continue
        if part.is_file():
            yield part
        elif part.is_dir():
            yield part
            yield from sorted(
                path for path in part.rglob("*") if not path.name.startswith(".") and path.name != LOCK_NAME
            )
    yield from _other_files(hub)


def _other_files(hub: Path) -> list[Path]:
    """Returns the files in the hub's folder that ``hub.toml`` names and that are in none of `_PARTS`."""
    if not (hub / CONFIG_NAME).is_file():
        return []
    try:
        config = load_config(hub / CONFIG_NAME)
    except ConfigError as error:
        _log.warning("what %s names is not in the backup: %s", CONFIG_NAME, error)
        return []
    found = {path for path in named_files(config) if path.is_file() and path.is_relative_to(hub)}
    return sorted(path for path in found if path.relative_to(hub).parts[0] not in _PARTS)


def restore(archive: Path, folder: Path, *, passphrase: str | None = None) -> RestoreReport:
    """Restores a hub's folder, in a new epoch.

    Args:
        folder: Must not exist, or be empty.
        passphrase: Opens the root keys, if they are in the backup and were made with one.

    Raises:
        InputNotFoundError: There is no such file.
        InputError: The folder is not empty, apart from what a killed restore left.
        BundleFormatError: It is no backup, or a name in it leaves the folder.
    """
    if not archive.is_file():
        raise InputNotFoundError(f"no backup at {archive}", action="Give a file that `lineside hub backup` made.")
    if (folder / STAGING).exists() and not (folder / METADATA).exists():  # of a restore that was killed
        _clear(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty", action="Give a folder that does not exist yet.")
    staging = folder / STAGING
    staging.mkdir(parents=True)
    try:
        report = _restore(archive, staging, folder, passphrase)
        # Without its metadata the folder is no hub's yet.
        for path in sorted(staging.iterdir(), key=lambda one: one.name == METADATA):
            path.rename(folder / path.name)
        staging.rmdir()
        fsync_folder(folder)
    except BaseException as error:
        _clear(folder)  # so that the next attempt finds it empty
        if isinstance(error, OSError) and is_disk_full(error):
            raise DiskFullError(path=str(folder)) from error
        raise
    return report


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _restore(archive: Path, folder: Path, place: Path, passphrase: str | None) -> RestoreReport:
    """Restores into a folder that is moved to its place later."""
    try:
        with tarfile.open(archive, "r:") as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise BundleFormatError(f"{archive} is no backup: {error}", action="Give another backup.") from error
    _move_paths(folder, place.resolve())
    _fsync_all(folder)
    try:
        repository = Repository.open(folder, passphrase=passphrase)
    except InputNotFoundError as error:
        raise BundleFormatError(
            f"{archive} is no backup: no repository in it", action="Give another backup."
        ) from error
    with Database.open(folder) as database:
        missing = _forget_frames(database, folder)
        epoch = database.new_epoch()
        with database.transaction():
            database.add_event(
                hub_database.TimelineEvent(
                    at_ns=time.time_ns(),
                    device="",
                    kind="restored",
                    detail=f"desired states are numbered anew, in epoch {epoch}",
                )
            )
    return RestoreReport(folder=place, epoch=epoch, rotated=_rotate(repository), frames_missing=missing)


def _move_paths(folder: Path, place: Path) -> None:
    """Replaces the old folder by the new place where ``mosquitto.conf``, and an older ``hub.toml``, name it."""
    broker_file = folder / IDENTITY_NAME / BROKER_NAME
    if not broker_file.is_file():
        return
    text = broker_file.read_text(encoding="utf-8")
    found = re.search(rf"(?m)^acl_file (/.+)/{IDENTITY_NAME}/{re.escape(ACCESS_NAME)}$", text)
    if found is None or found[1] == str(place):
        return
    for path in (broker_file, folder / CONFIG_NAME):
        moved = path.read_text(encoding="utf-8").replace(f"{found[1]}/", f"{place}/")
        # Started as root, mosquitto becomes this user, who must be able to read the keys.
        write_atomic(path, re.sub(r"(?m)^user .*$", f"user {path.owner()}", moved).encode())


def _forget_frames(database: Database, folder: Path) -> int:
    """Deletes the rows of frames that are missing in the folder."""
    config_path = folder / CONFIG_NAME
    if config_path.is_file() and load_config(config_path).frames.url:
        return 0
    here = set(FolderBlobs(folder / FRAMES_NAME).names())
    lost = [row["sha256"] for row in database.query("SELECT DISTINCT sha256 FROM frames") if row["sha256"] not in here]
    with database.transaction() as connection:
        removed = [connection.execute("DELETE FROM frames WHERE sha256 = ?", (digest,)).rowcount for digest in lost]
    return sum(removed)


def _rotate(repository: Repository) -> bool:
    """Rotates snapshot and timestamp if the root keys are here, can be opened and suffice."""
    try:
        if not repository.roles.keys_of("root").at_hand:
            return False
        _, state = repository.roles.rotate_top_level("snapshot", "timestamp")
    except SignatureError as error:
        _log.warning("snapshot and timestamp have their old keys: %s", error)
        return False
    return state.complete


def _fsync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        else:
            fsync_folder(path)
    fsync_folder(folder)
