"""The bundles that are shipped: where they are."""

from __future__ import annotations

from pathlib import Path

from lineside_runtime.errors import InputNotFoundError

_FOLDER = Path(__file__).parent

NAMES = ("surface-12", "surface-12-float", "patch-features")
"""The INT8 detector of 12 surface defects, the wider float model that it was made of, and the features that models of
good parts are made with."""


def path(name: str) -> Path:
    """Returns the folder of a shipped bundle.

    Args:
        name: One of `NAMES`.

    Raises:
        InputNotFoundError: There is no such bundle, or this installation lacks it.
    """
    folder = _FOLDER / name
    if name not in NAMES or not folder.is_dir():
        raise InputNotFoundError(f"no shipped bundle {name!r}", expected=f"one of {', '.join(NAMES)}")
    return folder
