"""``lineside gauge calibrate|locate|measure|study``."""

from __future__ import annotations

import argparse

from lineside.commands.gauge import calibrate, locate, measure, study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, action in (("calibrate", calibrate), ("locate", locate), ("measure", measure), ("study", study)):
        added = actions.add_parser(name, help=action.HELP, description=action.DESCRIPTION)
        action.add_arguments(added)
        added.set_defaults(run=action.run)
