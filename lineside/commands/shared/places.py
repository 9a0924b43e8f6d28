"""Where the bundle or the hub is that a command is given."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside_models import zoo
from lineside_runtime.errors import InputNotFoundError


def bundle_place(given: str) -> Path:
    """Returns the path that ``given`` is, or that of the shipped bundle of this name where there is no such path."""
    try:
        return zoo.find(given)
    except InputNotFoundError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_hub(parser: argparse._ActionsContainer) -> None:
    """Adds ``--hub``."""
    parser.add_argument("--hub", type=Path, required=True, metavar="DIR", help="the hub's folder on this machine")
