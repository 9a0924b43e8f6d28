"""``lineside board console``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.console import inform
from lineside.options import Actions


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "console",
        help="open a terminal on a board's serial console",
        description="Connects this terminal with a board's serial console. Ctrl-] ends it; every other key goes to "
        "the board.",
    )
    parser.add_argument("port", metavar="PORT", help="such as /dev/ttyUSB0, or rfc2217://host:2217")
    parser.add_argument("--baud", type=int, metavar="N", help="default: the profile's, or 115200")
    parser.add_argument("--board", metavar="NAME", help="its profile, which has the speed")
    parser.add_argument("--log", type=Path, metavar="FILE", help="also append the board's output to this file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Connects until Ctrl-]."""
    from lineside_boards import profile
    from lineside_boards.provision.serial_port import BAUD, SerialPort
    from lineside_boards.provision.terminal import Terminal

    baud = options.baud or (profile.load(options.board).console.baud if options.board is not None else BAUD)
    with Terminal(log=options.log) as terminal:
        port = SerialPort(options.port, baud=baud)
        try:
            terminal.run(port, greeting=f"{options.port} at {baud} baud; Ctrl-] ends it")
        finally:
            port.close()
    inform(f"\nleft {options.port}")
    return 0
