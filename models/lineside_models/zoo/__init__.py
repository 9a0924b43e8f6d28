"""Shipped bundles."""

from __future__ import annotations

from pathlib import Path

from lineside_runtime.errors import InputNotFoundError
from lineside_runtime.wording import nearest

_FOLDER = Path(__file__).parent

NAMES = (
    "surface-12",
    "surface-12-float",
    "surface-starter",
    "patch-features",
    "text-detection",
    "text-orientation",
    "text-lines",
)
"""The INT8 detector of 12 surface defects, the wider float model that it was made of, a detector of the same types that
learned drawn frames alone, the features for models of good parts, and the three networks that read text."""

HOST_ONLY = ("surface-12-float",)
"""Of `NAMES`, those that no device gets with the agent: what others are made of and compared with. A device can still
run one that is pushed to it."""


def path(name: str) -> Path:
    """Returns the folder of a shipped bundle.

    Raises:
        InputNotFoundError: There is no such bundle, or this installation lacks it.
    """
    folder = _FOLDER / name
    if name not in NAMES or not folder.is_dir():
        here = [each for each in NAMES if (_FOLDER / each).is_dir()]
        near = nearest(name, here)
        raise InputNotFoundError(
            f"no shipped bundle {name!r}{' on a device' if name in HOST_ONLY and here else ''}",
            expected=f"one of {', '.join(here)}",
            action=f"Did you mean {near}?" if near else "Give one of them, or the path of a bundle that is there.",
        )
    return folder


def find(given: str | Path) -> Path:
    """Returns the given path, or that of the shipped bundle of this name if there is no such path.

    Args:
        given: A path, or one of `NAMES`.

    Raises:
        InputNotFoundError: There is no such path, and it looks like a name: it has neither folders nor a suffix.
    """
    place, name = Path(given), str(given)
    return place if "/" in name or place.suffix or place.exists() else path(name)
