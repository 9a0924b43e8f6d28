"""Secrets that a person gives, never on the command line: the passphrase of offline keys, new passwords and PINs."""

from __future__ import annotations

import argparse
import getpass
import os
import stat
import sys
from pathlib import Path

from lineside_runtime.errors import ConfigError, InputNotFoundError, SignatureError

VARIABLE = "LINESIDE_PASSPHRASE"


def add_passphrase(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds the options for the source of the passphrase."""
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help=f"holds the passphrase of the offline keys (or set {VARIABLE}); default: they are not encrypted",
    )
    ways.add_argument("--ask-passphrase", action="store_true", help="ask for the passphrase on the terminal")


def passphrase(options: argparse.Namespace) -> str | None:
    """Returns the passphrase from the file, the terminal or the environment, or ``None`` if none was requested.

    Raises:
        InputNotFoundError: The file is missing.
        ConfigError: Every user of this machine can read the file.
        SignatureError: It is empty, so that the keys would not be encrypted although requested.
    """
    if options.ask_passphrase:
        try:
            return _not_empty(getpass.getpass("passphrase of the offline keys: "), "the terminal")
        except EOFError as error:
            raise SignatureError("no passphrase was given", action="Type it, or use --passphrase-file.") from error
    if options.passphrase_file is None:
        given = os.environ.get(VARIABLE)
        return None if given is None else _not_empty(given, VARIABLE)
    path: Path = options.passphrase_file
    if not path.is_file():
        raise InputNotFoundError(f"{path} is not there", action="Write the passphrase into that file first.")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IRWXO:
        raise ConfigError(
            f"the passphrase file {path}",
            expected="a file that others can't read",
            actual=f"mode {mode:04o}",
            action=f"Run: chmod 600 {path}",
        )
    return _not_empty(path.read_text().rstrip("\n"), str(path))


def read_new_secret(what: str, whose: str) -> str:
    """Asks for a new secret twice on the terminal; without one it is the first line of standard input.

    Raises:
        ConfigError: The two differ.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    given = getpass.getpass(f"{what} of {whose}: ")
    if getpass.getpass("again: ") != given:
        raise ConfigError(what, expected="the same twice", action="Try again.")
    return given


def _not_empty(given: str, where: str) -> str:
    if not given.strip():
        raise SignatureError(f"the passphrase from {where} is empty", action="Give one, or none of these options.")
    return given
