"""``lineside board``: its actions."""

from __future__ import annotations

import argparse

from lineside.commands.board import console, detect, flash, prepare, profiles, provision


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for action in (profiles, detect, prepare, flash, provision, console):
        action.add(actions)
