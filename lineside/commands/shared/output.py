"""What the commands share: one JSON object on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
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
    """Prints lines for people, on stderr; as `show`."""
    print(printable(text), file=sys.stderr, flush=True)


def show(text: object = "", *, flush: bool = False) -> None:
    """Prints lines for people, on stdout. Names come from devices and files: what could steer a terminal is escaped."""
    print(printable(str(text)), flush=flush)


def show_link(link: Mapping[str, object], *, root: object) -> None:
    """Prints the lines of ``agent.toml`` that connect a device.

    Args:
        link: Keys and values of its ``[link]`` table.
        root: Path of the TUF root.
    """
    show(f'root = "{root}"\n\n[link]')
    for name, value in link.items():
        show(f'{name} = "{value}"')


def printable(text: str) -> str:
    """Returns a text whose control and formatting characters, but for newline and tab, are written as escapes."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t\xa0" else char.encode("unicode_escape").decode() for char in text
    )
