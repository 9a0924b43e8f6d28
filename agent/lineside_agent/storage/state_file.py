"""State files that an older agent can still read.

After a rollback of the agent the older release reads what the newer one has written. So:

- An unknown field is ignored, and a missing one has its default. Fields may be added at any time.
- ``format`` stands beside the fields. It is raised only by a change that an older agent cannot read, such as a new
  meaning of a field or a new word of a closed list. An older agent sets a file of a higher format aside, and goes on
  with what the disk itself says (the links, the database).
- A damaged file is set aside likewise. Both are logged.
- In ``records.db`` columns and tables may be added, each with a default; statements name the columns that they use.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import StoreError
from lineside_runtime.files import write_atomic

log = logging.getLogger("lineside.agent")

FORMAT = 1
"""Format of the state files of this release, which reads all formats up to this one."""

S = TypeVar("S", bound=msgspec.Struct)


class _Head(msgspec.Struct):
    format: int = FORMAT


def peek_state(path: Path, kind: type[S]) -> S | None:
    """Reads a state file without changing anything.

    Raises:
        StoreError: This agent can't read it.
    """
    try:
        data = path.read_bytes()
        head = decode_json(data, type=_Head)
        if head.format > FORMAT:
            raise StoreError(f"{path} is of a newer format", expected=f"at most {FORMAT}", actual=head.format)
        return decode_json(data, type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StoreError(f"{path} is damaged: {error}", action="The agent sets it aside at its start.") from error


def read_state(path: Path, kind: type[S]) -> S | None:
    """Reads a state file, whose struct must not forbid unknown fields.

    Returns:
        ``None`` if there is none, or if it had to be set aside.
    """
    try:
        return peek_state(path, kind)
    except StoreError as error:
        reason = error.message
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    log.error("%s: set aside as %s", reason, aside.name)
    return None


def write_state(path: Path, state: msgspec.Struct) -> None:
    """Writes a state file: the old one or the new one, whole.

    Raises:
        DiskFullError: There is no room; the file is as it was.
    """
    fields = {"format": FORMAT, **msgspec.to_builtins(state)}
    write_atomic(path, msgspec.json.format(msgspec.json.encode(fields), indent=1))
