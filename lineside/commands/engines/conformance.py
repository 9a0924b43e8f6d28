"""``lineside conformance``."""

from __future__ import annotations

import argparse

from lineside_runtime.conformance import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser)
    parser.set_defaults(run=command.execute)
