"""Types of values that several tables share, and the base of every table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
EngineName = Annotated[str, msgspec.Meta(pattern="^[a-z0-9_-]+$", examples=["ort"])]
IsolatedEngine = Annotated[str, msgspec.Meta(pattern="^[a-z0-9_-]+(=/.+)?$")]
FilePath = Annotated[Path, msgspec.Meta(extra_json_schema={"type": "string"})]
Milliseconds = Annotated[float, msgspec.Meta(ge=0)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Unit = Annotated[int, msgspec.Meta(ge=1, le=247)]
Register = Annotated[int, msgspec.Meta(ge=0, le=65535)]


def decode_path(kind: type, value: object) -> object:
    """Makes a `Path` from a string, for msgspec; anything else is a `TypeError`."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected a path as a string, got {type(value).__name__}")


class ConfigTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table: an unknown key is an error, and it is immutable."""
