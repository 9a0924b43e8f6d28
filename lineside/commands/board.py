"""``lineside board profiles|detect|doctor|prepare|flash|write``."""

from __future__ import annotations

import argparse

from lineside.commands import board_detect, board_flash, board_prepare, board_profiles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions, one module each."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for action in (board_profiles, board_detect, board_prepare, board_flash):
        action.add_actions(actions)
