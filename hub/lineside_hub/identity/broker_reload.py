"""Make a mosquitto on this machine read its access list again.

This applies to processes whose ``-c`` is the hub's ``mosquitto.conf`` or a file that names the hub's access list.
SIGHUP is only sent to a process that handles the signal: a starting one would be ended by it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple

from lineside_hub.config import IDENTITY_NAME
from lineside_hub.identity.secure_site import ACCESS_NAME, BROKER_NAME

_SIGHUP = 1 << (signal.SIGHUP - 1)


class BrokerReload(NamedTuple):
    """The processes that were found.

    Attributes:
        signalled: Process numbers that were sent SIGHUP.
        unreachable: Process numbers of another user, or that don't handle the signal yet.
    """

    signalled: tuple[int, ...]
    unreachable: tuple[int, ...]
    access_list: Path

    @property
    def message(self) -> str:
        """A sentence: which process reads the list again, or the command for it."""
        if self.signalled and not self.unreachable:
            return f"mosquitto (process {_joined(self.signalled)}) was told to read its access list again"
        if self.unreachable:
            return f"have mosquitto read its access list again: sudo kill -HUP {_joined(self.unreachable, ' ')}"
        return (
            f"no mosquitto of this machine uses {self.access_list}; have the broker read it again: "
            "sudo systemctl reload mosquitto, or kill -HUP PID"
        )


def reload_broker(folder: Path | str) -> BrokerReload:
    """Sends SIGHUP to every mosquitto that reads a hub's access list.

    Args:
        folder: The hub's, after `lineside_hub.identity.secure_site.secure`.
    """
    identity = Path(folder).resolve() / IDENTITY_NAME
    found = [
        (int(process.name), _send_sighup(process))
        for process in Path("/proc").glob("[0-9]*")
        if _reads(process, identity)
    ]
    signalled = tuple(number for number, reached in found if reached)
    unreachable = tuple(number for number, reached in found if reached is False)
    return BrokerReload(signalled, unreachable, identity / ACCESS_NAME)


def _reads(process: Path, identity: Path) -> bool:
    """Returns whether a process is a mosquitto with the hub's access list."""
    try:
        words = [os.fsdecode(word) for word in (process / "cmdline").read_bytes().split(b"\0")]
        if Path(words[0]).name != "mosquitto" or "-c" not in words[:-1]:
            return False
        named = Path(words[words.index("-c") + 1])
        path = named if named.is_absolute() else (process / "cwd").readlink() / named
        return path.resolve() == identity / BROKER_NAME or str(identity / ACCESS_NAME) in path.read_text()
    except (OSError, UnicodeDecodeError):  # it has ended, or belongs to another user
        return False


def _send_sighup(process: Path) -> bool | None:
    """Sends SIGHUP; returns whether that was possible, ``None`` if the process has ended."""
    try:
        if not _handles_hangup(process):
            return False
        os.kill(int(process.name), signal.SIGHUP)
    except PermissionError:
        return False
    except (FileNotFoundError, ProcessLookupError):
        return None
    return True


def _handles_hangup(process: Path) -> bool:
    fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return bool((int(fields["SigCgt"], 16) | int(fields["SigBlk"], 16)) & _SIGHUP)


def _joined(numbers: tuple[int, ...], separator: str = ", ") -> str:
    return separator.join(map(str, numbers))
