"""Writing a file so that after a crash it is either the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from lineside_runtime.errors import ConfigError, DiskFullError


def fsync_folder(folder: Path) -> None:
    """Makes a rename inside ``folder`` survive a power cut.

    Args:
        folder: An existing folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def ensure_writable(path: Path) -> None:
    """Makes the folder that a file is to stand in, so that who works for minutes first knows that it can be written.

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


def restrictive_umask() -> int:
    """Returns the umask, or 077 where it would let every user read what this process makes."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask if mask & 0o007 == 0o007 else 0o077


def restrict_permissions(paths: Iterable[Path]) -> None:
    """Sets a umask that lets no other user read, and takes those rights from what is there; at the start of a process.

    A umask that shuts others out already stays, with the rights of its group.

    Args:
        paths: Files and folders that may be there.
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

    Args:
        path: Where the file is to stand; its folder exists.
        data: The whole content.
        mode: Permission bits of the new file.

    Raises:
        DiskFullError: There is no room; ``path`` is as it was and nothing half-written remains.
    """
    import tempfile  # 3 ms that who only reads bundles doesn't need

    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
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
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(path=str(path), needed_bytes=len(data)) from error
        raise
    fsync_folder(path.parent)
