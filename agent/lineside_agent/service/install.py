"""Install the service on a system or in the tree of an image, and remove it.

The installed files, and the folders that were made for them, are listed in ``/usr/lib/lineside/installed.json``;
`uninstall` removes exactly those. Records and configuration are somebody's work: they stay without ``purge``.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lineside_agent.deployment.self_update import guard
from lineside_agent.deployment.self_update.environment import make_environment
from lineside_agent.deployment.self_update.payload import MANIFEST_NAME, WHEELS, Payload
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import ConfigError, InputNotFoundError, StagingError
from lineside_runtime.files import fsync_folder, write_atomic
from lineside_runtime.progress import TextListener

log = logging.getLogger("lineside.service")

RECORD = "usr/lib/lineside/installed.json"
GUARD = "usr/lib/lineside/lineside_guard.py"
COMMAND = "usr/local/bin/lineside"
HOME = guard.FOLDER.lstrip("/")
STATE, CONFIGURATION = "var/lib/lineside", "etc/lineside"

_FILES = {
    "lineside-agent.service": "usr/lib/systemd/system/lineside-agent.service",
    "lineside-guard.service": "usr/lib/systemd/system/lineside-guard.service",
    "lineside-guard.timer": "usr/lib/systemd/system/lineside-guard.timer",
    "lineside.sysusers": "usr/lib/sysusers.d/lineside.conf",
    "lineside.tmpfiles": "usr/lib/tmpfiles.d/lineside.conf",
    "lineside.udev": "usr/lib/udev/rules.d/70-lineside.rules",
    "lineside.journald": "etc/systemd/journald@lineside.conf",
    "lineside.command": COMMAND,
}
"""Data file of this package to its place on the system."""

_WANTS = {
    "etc/systemd/system/multi-user.target.wants/lineside-agent.service": "lineside-agent.service",
    "etc/systemd/system/timers.target.wants/lineside-guard.timer": "lineside-guard.timer",
}
"""Links that ``systemctl enable`` would make."""

_JOURNAL = ("systemd-journald@{}.socket", "systemd-journald-varlink@{}.socket", "systemd-journald@{}.service")

_JOURNAL_ATTEMPTS, _JOURNAL_PAUSE_S = 10, 0.5

_STARTED = ("lineside-guard.timer", "lineside-agent.service")


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """List of an installation.

    Attributes:
        files: Files and links, from the root.
        folders: Folders that were made for them, outermost first.
    """

    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def install(
    root: Path | str = "/",
    *,
    payload: Payload | None = None,
    foreign: bool = False,
    keep_wheels: bool = False,
    start: bool = True,
    progress: TextListener = log.info,
) -> Installed:
    """Installs the service; a second time it brings everything up to this release, and leaves the slots alone.

    Args:
        root: The system's root; any other than ``/`` is only written to, and nothing is started.
        payload: The agent for slot ``a``; ``None`` if the slots are filled otherwise.
        foreign: Whether the root is another machine's, so that its slot is made without running it.
        keep_wheels: Whether the payload's wheels stay in the slot: 100 MB that the first update then need not fetch.
        start: Whether to enable and start it now.

    Raises:
        IncompatibleBundleError: The payload is for another Python or architecture than this system's.
        ConfigError: A service of another origin has the same name.
        StagingError: The slot could not be made, or a program of systemd failed.
        DiskFullError: There is no room.
    """
    base = Path(root)
    files = {place: _data(source) for source, place in _FILES.items()} | {GUARD: Path(guard.__file__).read_bytes()}
    links = _WANTS if start else {}
    known = _read_record(base)
    _check_foreign(base, files, known)
    made = Installed(
        files=tuple(sorted({*known.files, *files, *links})),
        folders=tuple(dict.fromkeys((*known.folders, *_missing(base, [*files, *links, RECORD, f"{HOME}/slots"])))),
    )
    (base / RECORD).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(base / RECORD, msgspec.json.format(msgspec.json.encode(made), indent=1))  # before what it names
    for place, data in files.items():
        (base / place).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(base / place, data, mode=0o755 if place == COMMAND else 0o644)
    for place, unit in links.items():
        _link(base / place, f"/usr/lib/systemd/system/{unit}")
    progress(f"installed {len(made.files)} files under {base}")
    if payload is not None:
        fill_slot(base / HOME, payload, foreign=foreign, keep_wheels=keep_wheels)
        progress(f"slot a: agent {payload.manifest.version} for {payload.manifest.tag}")
    if base == Path("/"):
        _wake(start)
    return made


def fill_slot(
    home: Path, payload: Payload, *, foreign: bool = False, keep_wheels: bool = False, python: str | None = None
) -> None:
    """Makes slot ``a`` of a system that has none yet, and makes it the current one.

    Args:
        home: ``/opt/lineside``, or its place in an image's tree.
        python: The Python of the slot; ``None`` for the system's own.

    Raises:
        IncompatibleBundleError: It is for another Python or architecture than this system's.
        StagingError: pip did not install it.
    """
    if not foreign:
        payload.check_fits(python=_version_of(python or "/usr/bin/python3"))
    slots = guard.Installation(home)
    slot = slots.slot("a")
    (slots.slot("b")).mkdir(parents=True, exist_ok=True)
    slot.mkdir(parents=True, exist_ok=True)
    (slot / guard.DIGEST).unlink(missing_ok=True)
    kept = slot / "payload"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    make_environment(payload, slot / guard.VENV, foreign=foreign, python=python)
    shutil.copy2(payload.path / MANIFEST_NAME, kept / MANIFEST_NAME)
    if keep_wheels:
        shutil.copytree(payload.path / WHEELS, kept / WHEELS)
    write_atomic(slot / guard.DIGEST, payload.digest.encode())
    slots.make_current("a")


def uninstall(root: Path | str = "/", *, purge: bool = False, progress: TextListener = log.info) -> None:
    """Stops the service and removes what `install` made, and the slots.

    Args:
        purge: Whether to remove records, configuration, identity and the user as well.
        progress: Takes each step, and what stays.

    Raises:
        InputNotFoundError: It is not installed.
        StagingError: A program of systemd failed.
    """
    base = Path(root)
    if not (base / RECORD).is_file():
        raise InputNotFoundError(f"{base / RECORD} is not there", action="The service is not installed here.")
    made = _read_record(base)
    live = base == Path("/")
    if live:
        _systemctl("disable", "--now", *_STARTED)
        _systemctl("stop", "lineside-guard.service")  # the timer may just have started it
        _stop_journal()
    for place in (HOME, *((STATE, CONFIGURATION) if purge else ())):
        shutil.rmtree(base / place, ignore_errors=True)
    for journal in (base / "var/log/journal").glob("*.lineside") if purge else ():
        shutil.rmtree(journal)
    for place in (*made.files, RECORD):
        (base / place).unlink(missing_ok=True)
    for folder in (CONFIGURATION, *sorted(made.folders, key=len, reverse=True)):
        with contextlib.suppress(OSError):  # not empty, or not there
            (base / folder).rmdir()
    if live:
        _systemctl("daemon-reload")
        if purge:
            _run("userdel", "lineside")
    kept = [str(base / place) for place in (STATE, CONFIGURATION) if (base / place).exists()]
    progress("removed the service" + (f"; {' and '.join(kept)} stay (--purge removes them)" if kept else ""))


def _data(name: str) -> bytes:
    return (importlib.resources.files("lineside_agent.service") / "files" / name).read_bytes()


def _read_record(base: Path) -> Installed:
    try:
        return decode_json((base / RECORD).read_bytes(), type=Installed)
    except FileNotFoundError:
        return Installed()
    except msgspec.DecodeError as error:
        raise ConfigError(f"{base / RECORD}: {error}", action="Remove what it names by hand.") from error


def _check_foreign(base: Path, files: dict[str, bytes], known: Installed) -> None:
    """Refuses to overwrite a file of another origin."""
    for place, data in files.items():
        if place not in known.files and os.path.lexists(base / place) and _bytes(base / place) != data:
            raise ConfigError(f"{base / place} is there, and not of this installer", action="Move it away first.")


def _missing(base: Path, places: Sequence[str]) -> list[str]:
    """Returns the folders that must be made for these places, outermost first."""
    folders = {str(folder) for place in places for folder in Path(place).parents if str(folder) != "."}
    return sorted(folder for folder in folders if not (base / folder).exists())


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    fsync_folder(path.parent)


def _version_of(python: str) -> str:
    """Returns a Python's version, such as ``3.13``."""
    found = subprocess.run(
        [python, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise StagingError(f"{python} doesn't run", action="Install the system's Python 3.")
    return found.stdout.strip()


def _wake(start: bool) -> None:
    _run("systemd-sysusers", "lineside.conf")
    _run("systemd-tmpfiles", "--create", "lineside.conf")
    _systemctl("daemon-reload")
    if start:
        _systemctl("enable", "--now", *_STARTED)


def _stop_journal() -> None:
    """Stops the journal, again if a last line in its socket has systemd start it anew, which cancels the stop."""
    units = [unit.format("lineside") for unit in _JOURNAL]
    for _ in range(_JOURNAL_ATTEMPTS - 1):
        try:
            _systemctl("stop", *units)
        except StagingError as error:  # noqa: PERF203 - a few times at most
            if "canceled" not in str(error):
                raise
            log.info("the journal was wanted again while it was stopped; stopped once more")
            time.sleep(_JOURNAL_PAUSE_S)
        else:
            return
    _systemctl("stop", *units)


def _systemctl(*arguments: str) -> None:
    if Path("/run/systemd/system").is_dir():  # sd_booted(3): otherwise the next boot does it
        _run("systemctl", *arguments)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise StagingError(f"{command[0]} is not there", action="The service needs systemd.") from error
    if done.returncode:
        raise StagingError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}", action="Run it as root.")


def installed_files(root: Path | str = "/") -> list[str]:
    """Returns the files of the installation that are missing or differ from this release's, from the root."""
    base = Path(root)
    if not (base / RECORD).is_file():
        raise InputNotFoundError(f"{base / RECORD} is not there", action="Run `lineside agent install-service`.")
    wanted = {place: _data(source) for source, place in _FILES.items()}
    wanted[GUARD] = Path(guard.__file__).read_bytes()
    return sorted(place for place, data in wanted.items() if _bytes(base / place) != data)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
