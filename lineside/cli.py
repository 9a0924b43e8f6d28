"""The command line.

Each command is a module of `lineside.commands` with two functions, ``add_arguments`` and ``run``, and is
imported only when it is called: ``lineside --help`` loads no engine, no network and no host-side package.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence

from lineside import __version__
from lineside_runtime.errors import LinesideError

COMMANDS = {
    "demo": "the whole line in one go: compress, sign, push, inspect, push again, roll back, report",
    "inspect": "verdicts for photos or a folder of them",
    "evaluate": "measure a bundle on an annotated data set",
    "decide": "choose a bundle's thresholds for what a miss and a false reject cost",
    "learn-good": "learn from good parts alone, on the device's own CPU: an anomaly model",
    "optimize": "make a float model smaller and faster, proven on the same frames",
    "train": "train a model on annotated data",
    "distill": "teach a smaller model what a larger one knows",
    "bundle": "show, verify, pack or unpack a bundle",
    "bench": "measure how fast and how large a bundle is here, and compare it",
    "devices": "what this machine can run models on, and what is absent and why",
    "serve": "answer other programs over the Open Inference Protocol, REST and gRPC",
    "conformance": "put an engine through what every engine must do",
    "agent": "the daemon beside the line",
    "camera": "the cameras here: list them, take frames, put one through what every camera must do",
    "board": "from a bare board to a device in the fleet: detect, prepare an image, flash a card",
    "hub": "the host's end: repository, results, broker for a first try",
    "push": "sign a bundle and push it to a group of devices",
    "relabel": "frames from the line to people who correct them, and back into training",
    "fleet": "what the hub knows of its devices",
    "config": "the schema of the configuration files",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name; those of the process if ``None``.

    Returns:
        0 on success, 1 on an error with a code, 2 on wrong usage, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = parser_of(arguments)
    options = parser.parse_args(arguments)
    if "run" not in options:
        parser.print_help(sys.stderr)
        return 2
    logging.basicConfig(
        level=(options.log_level or getattr(options, "usual_log_level", "warning")).upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        return int(options.run(options))
    except LinesideError as error:
        if getattr(options, "json", False):
            print(json.dumps({"error": error.as_dict()}))
        print(f"lineside {options.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"lineside {options.command}: interrupted", file=sys.stderr)
        return 130


def parser_of(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the parser with the arguments of the command that ``arguments`` names."""
    parser = argparse.ArgumentParser(prog="lineside", description="Inspect parts on the line with small INT8 models.")
    parser.add_argument("--version", action="version", version=f"lineside {__version__}")
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        help="what goes to stderr (default: warning; info for agent, hub and broker)",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    wanted = next((argument for argument in arguments if argument in COMMANDS), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == wanted:
            importlib.import_module(f"lineside.commands.{name.replace('-', '_')}").add_arguments(command)
    return parser
