"""``lineside board profiles|detect|doctor|prepare|flash|write|provision|console``."""

from __future__ import annotations

import argparse

from lineside.commands import (
    board_console,
    board_detect,
    board_flash,
    board_prepare,
    board_profiles,
    board_provision,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions, one module each."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for action in (board_profiles, board_detect, board_prepare, board_flash, board_provision, board_console):
        action.add_actions(actions)
