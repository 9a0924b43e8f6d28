"""Write files atomically, and restrict who may read them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from lineside_runtime.errors import ConfigError, DiskFullError, LinesideError


def is_disk_full(error: OSError) -> bool:
    """Returns whether a write failed for lack of room: the disk is full, or the user's quota is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def fsync_folder(folder: Path) -> None:
    """Makes a rename inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Returns lineside's part of the user's cache folder, by the XDG base directory specification.

    It is made if it is not there; where that fails, so does writing to it.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lineside"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def file_lock(path: Path, *, mode: int = 0o644, refusal: LinesideError | None = None) -> Iterator[None]:
    """Holds the lock of a file within the block; makes the file if it is not there.

    The kernel frees the lock when its holder dies. It is not reentrant.

    Args:
        mode: Permissions of a file that is made.
        refusal: Raised if another process holds the lock; without it, that process is waited for.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError as error:
            raise refusal or error from error
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """Makes a hidden folder beside ``out`` that only this user can enter, and removes it afterwards.

    What processes that were killed have left there of the same name is removed first.
    """
    import glob  # only who writes needs them
    import shutil

    for folder in out.parent.glob(f".{glob.escape(out.name)}.????????.tmp"):
        with contextlib.suppress(OSError):  # another process works in it, or has ended meanwhile
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
    folder, lock = _locked_folder(out)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(out: Path) -> tuple[Path, int]:
    """Makes the folder with a lock that tells others that this process lives."""
    import tempfile

    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # another process may have removed it before the lock was held
            return folder, lock
        os.close(lock)


def ensure_writable(path: Path) -> None:
    """Makes a file's folder and checks that it can be written to, before work that takes minutes.

    Raises:
        ConfigError: That folder can't be made or written to, or a folder stands where the file is to stand.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = os.access(path.parent, os.W_OK) and not path.is_dir()
    except OSError:
        written = False
    if not written:
        raise ConfigError(
            f"{path} can't be written",
            expected="a file in a folder that can be made and written to",
            action="Name another place.",
        )


def check_private(path: Path) -> None:
    """Checks that nobody else can read the file of a key.

    Raises:
        ConfigError: Other users can.
    """
    if path.stat().st_mode & 0o077:
        raise ConfigError(
            f"the key {path}", expected="a file that only its owner can read", action=f"Run: chmod 600 {path}"
        )


def restrictive_umask() -> int:
    """Returns the umask, or 077 where it would let every user read what this process makes."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask if mask & 0o007 == 0o007 else 0o077


def restrict_permissions(paths: Iterable[Path]) -> None:
    """Sets a umask that lets no other user read, and removes those permissions from existing files.

    Called at the start of a process. A umask that is restrictive already stays, with the permissions of its group.
    """
    mask = restrictive_umask()
    os.umask(mask)
    for path in paths:
        with contextlib.suppress(FileNotFoundError, PermissionError):  # the latter: another user's, who set its mode
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & mask:
                path.chmod(mode & ~mask)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Writes ``data`` to a temporary name beside ``path``, fsyncs it, renames it and fsyncs the folder.

    Raises:
        DiskFullError: There is no room; ``path`` is as it was and nothing half-written remains.
    """
    import tempfile  # 3 ms that who only reads bundles doesn't need

    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:  # names the temporary file, of which nobody knows
        raise OSError(error.errno, error.strerror, str(path.parent)) from None
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise DiskFullError(path=str(path), needed_bytes=len(data)) from error
        raise
    fsync_folder(path.parent)
