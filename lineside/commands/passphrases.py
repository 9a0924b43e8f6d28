"""Where a passphrase comes from: a file, the environment or the terminal; never the command line."""

from __future__ import annotations

import argparse
import getpass
import os
from pathlib import Path

from lineside_runtime.errors import InputNotFoundError, SignatureError

VARIABLE = "LINESIDE_PASSPHRASE"


def add_passphrase(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds the options that say where the passphrase of the offline keys is; never the passphrase itself."""
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help=f"holds the passphrase of the offline keys (or set {VARIABLE}); none: they are not encrypted",
    )
    ways.add_argument("--ask-passphrase", action="store_true", help="ask for the passphrase on the terminal")


def passphrase(options: argparse.Namespace) -> str | None:
    """Returns the passphrase from the file, the terminal or the environment, or ``None``.

    Raises:
        InputNotFoundError: The file is not there.
        SignatureError: The terminal gave none.
    """
    if options.ask_passphrase:
        try:
            return getpass.getpass("passphrase of the offline keys: ")
        except EOFError as error:
            raise SignatureError("no passphrase was given", action="Type it, or use --passphrase-file.") from error
    if options.passphrase_file is None:
        return os.environ.get(VARIABLE)
    path: Path = options.passphrase_file
    if not path.is_file():
        raise InputNotFoundError(f"{path} is not there", action="Write the passphrase into that file first.")
    return path.read_text().rstrip("\n")
