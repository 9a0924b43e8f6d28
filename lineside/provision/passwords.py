"""`Passwords`: from a file, the environment or the terminal; never from the command line."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path

from lineside.console import inform
from lineside_boards.errors import LoginError
from lineside_runtime.errors import InputNotFoundError

BOARD_VARIABLE = "LINESIDE_BOARD_PASSWORD"
SUDO_VARIABLE = "LINESIDE_SUDO_PASSWORD"
KEY_VARIABLE = "LINESIDE_KEY_PASSPHRASE"


def add_secrets(parser: argparse._ArgumentGroup) -> None:
    """Adds the options for the files of passwords."""
    parser.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help=f"the user's password on the board (or set {BOARD_VARIABLE}); default: asked for, if needed",
    )
    parser.add_argument(
        "--sudo-password-file",
        type=Path,
        metavar="FILE",
        help=f"sudo's password, if it is another (or set {SUDO_VARIABLE})",
    )


class Passwords:
    """Passwords; each is asked for once.

    Args:
        options: With what `add_secrets` adds.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._files: dict[str, Path | None] = {
            BOARD_VARIABLE: options.password_file,
            SUDO_VARIABLE: options.sudo_password_file,
            KEY_VARIABLE: None,
        }
        self._known: dict[str, str] = {}

    def ask(self, whose: str) -> str:
        """Returns a password.

        Args:
            whose: ``password of …``, ``sudo password of …`` or ``passphrase of …``.

        Raises:
            InputNotFoundError: Its file is missing.
            LoginError: It is not given, and there is no terminal to ask on.
        """
        names = {"sudo": (SUDO_VARIABLE, BOARD_VARIABLE), "passphrase": (KEY_VARIABLE,)}
        wanted = names.get(whose.split()[0], (BOARD_VARIABLE,))
        for name in wanted:
            if (found := self._given(name)) is not None:
                return found
        if not sys.stdin.isatty():
            raise LoginError(
                f"the {whose} is needed, and there is nobody to ask",
                action=f"Set {wanted[0]}, or give its file (--password-file, --sudo-password-file).",
            )
        self._known[wanted[0]] = getpass.getpass(f"{whose}: ")
        return self._known[wanted[0]]

    def _given(self, name: str) -> str | None:
        if name in self._known:
            return self._known[name]
        path = self._files[name]
        if path is None:
            return os.environ.get(name)
        try:
            return path.read_text().rstrip("\n")
        except OSError as error:
            raise InputNotFoundError(f"{path}: {error.strerror}") from error


def confirm(text: str) -> bool:
    """Shows a text and returns whether the user types yes."""
    inform(f"{text}\nIs that the board's key? Type yes to go on: ")
    return input().strip() == "yes"
