"""From TOML to structs: paths, and errors that name the path of a key."""

from __future__ import annotations

import re
from pathlib import Path


def decode_path(kind: type, value: object) -> object:
    """Makes a `Path` of a string, for msgspec, which knows none; anything else is a `TypeError`."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected a path as a string, got {type(value).__name__}")


_UNKNOWN = re.compile(r"Object contains unknown field `(.+?)`(?: - at `(.+)`)?")


def with_path(message: str) -> str:
    """Turns msgspec's ``unknown field `fps` - at `$.camera` `` into ``$.camera.fps is not a known key``."""
    match = _UNKNOWN.fullmatch(message)
    if match is None:
        return message
    return f"{match[2] or '$'}.{match[1]} is not a known key"
