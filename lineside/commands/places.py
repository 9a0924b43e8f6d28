"""Where the bundle or the hub is that a command is given."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside_models import zoo


def bundle_place(given: str) -> Path:
    """Returns the path that ``given`` is, or that of the shipped bundle of this name where there is no such path."""
    return zoo.path(given) if given in zoo.NAMES and not Path(given).exists() else Path(given)


def add_hub(parser: argparse._ActionsContainer) -> None:
    """Adds ``--hub``."""
    parser.add_argument("--hub", type=Path, required=True, metavar="DIR", help="the hub's folder on this machine")
