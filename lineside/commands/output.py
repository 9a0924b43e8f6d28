"""What the commands share: one JSON object on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import sys
from pathlib import PurePath
from typing import Any

import msgspec


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds ``--json``."""
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, everything else on stderr")


def print_json(value: Any) -> None:
    """Prints structs, dataclasses and plain values as one line of JSON."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=_as_text).decode() + "\n")
    sys.stdout.flush()


def _as_text(value: Any) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def say(text: str = "") -> None:
    """Prints a line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)
