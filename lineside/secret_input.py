"""Secrets that a person gives, never on the command line: the passphrase of offline keys, new passwords and PINs."""

from __future__ import annotations

import argparse
import getpass
import os
import stat
import sys
import warnings
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


def passphrase(options: argparse.Namespace, *, new: bool = False) -> str | None:
    """Returns the passphrase from the file, the terminal or the environment, or ``None`` if none was requested.

    Args:
        new: It encrypts keys for the first time: the terminal asks twice, since nobody can open them after a typing
            error.

    Raises:
        InputNotFoundError: The file is missing.
        ConfigError: Every user of this machine can read the file; what was typed twice differs.
        SignatureError: It is empty, so that the keys would not be encrypted although requested; there is no terminal.
    """
    if options.ask_passphrase:
        typed = _not_empty(_ask("passphrase of the offline keys: "), "the terminal")
        if new and _ask("again: ") != typed:
            raise ConfigError("passphrase", expected="the same twice", action="Try again; nothing was made.")
        return typed
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


def _ask(prompt: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(prompt)
    except (EOFError, getpass.GetPassWarning) as error:
        action = f"Use --passphrase-file, or set {VARIABLE}."
        raise SignatureError("there is no terminal to ask for the passphrase", action=action) from error


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
