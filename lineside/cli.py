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
from lineside.options import CommandParser
from lineside_runtime.errors import ConfigError, DiskFullError, InputError, InputNotFoundError, LinesideError
from lineside_runtime.files import is_disk_full

COMMANDS = {
    "demo": "run the whole flow: compress, sign, push, inspect, push again, roll back, report",
    "inspect": "inspect photos, videos or a camera, and print the verdicts",
    "read": "read a document, and find the fields of a schema in it",
    "evaluate": "measure a bundle on an annotated dataset",
    "decide": "choose a bundle's thresholds from the costs of misses and false rejects",
    "gauge": "calibrate a camera, measure parts in millimetres, and study repeatability",
    "learn-good": "make an anomaly model from good parts only, on the device's CPU",
    "recommend": "rank items for a history with a recommender's bundle",
    "learn-reference": "make a model that compares parts with a good one, on the device's CPU",
    "optimize": "make a float model smaller and faster, and check it on the same frames",
    "train": "train a model on annotated data",
    "distill": "distill a large model into a smaller one",
    "bundle": "show, verify, pack, unpack or extend a bundle",
    "bench": "measure speed and memory of a bundle on this machine, and compare",
    "plan": "measure the ways of serving a bundle on this machine, and keep the best",
    "devices": "list the devices and engines of this machine, and why others are absent",
    "serve": "serve bundles over the Open Inference Protocol, REST and gRPC",
    "privacy": "classify images with a server that cannot read them",
    "conformance": "run the conformance checks on an engine",
    "agent": "run and examine the daemon of a device",
    "camera": "list cameras, take frames, run the conformance checks on a camera",
    "board": "prepare boards: detect, build an image, flash a card, provision over SSH",
    "hub": "run the hub: repository, rollouts, results, identities",
    "push": "sign a bundle and push it to a group of devices",
    "relabel": "export frames for correction, and import them for training",
    "evolve": "retrain and search around the deployed detector, and offer the result to a canary group",
    "federate": "train a detector on the frames of several plants, which stay there",
    "fleet": "show devices, rollouts and results of the hub",
    "config": "print schemas of configuration files, and convert masks",
}

PACKAGES = {
    "engines": ("bench", "conformance", "devices", "plan", "serve"),
    "models": ("decide", "distill", "evaluate", "evolve", "learn-good", "learn-reference", "optimize"),
}
"""Commands in a package of `lineside.commands` with others of their kind."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name; those of the process if ``None``.

    Returns:
        0 on success, 1 on an error with a code, 2 on wrong usage, 3 if `evolve` offers nothing, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print(f"lineside {_command(arguments) or ''}".rstrip() + ": interrupted", file=sys.stderr)
        return 130


def _command(arguments: Sequence[str]) -> str | None:
    return next((argument for argument in arguments if argument in COMMANDS), None)


def _run(arguments: Sequence[str]) -> int:
    parser = parser_of(arguments)
    try:
        options = parser.parse_args(arguments)
    except LinesideError as error:  # a bundle's name that is neither shipped nor a path
        return _refuse(argparse.Namespace(command=_command(arguments), json="--json" in arguments), error)
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
        return _refuse(options, _of_option(arguments, error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        logging.getLogger("lineside").debug("%s", error, exc_info=True)
        if (known := _file_error(error)) is None:
            raise
        return _refuse(options, known)


def _refuse(options: argparse.Namespace, error: LinesideError) -> int:
    if getattr(options, "json", False):
        print(json.dumps({"error": error.as_dict()}))
    print(f"lineside {options.command}: {error}", file=sys.stderr)
    return 1


def _of_option(arguments: Sequence[str], error: LinesideError) -> LinesideError:
    """Names the given option where an error names a key of that name, which may also stand in a configuration file."""
    if not isinstance(error, ConfigError) or error.action != ConfigError.default_action:
        return error
    option: str | None = error.message
    if not error.message.startswith("--"):
        key = f"--{error.message.replace('_', '-')}"
        typed = (argument.partition("=")[0] for argument in arguments)
        option = next((word for word in typed if len(word) > len("--") and key.startswith(word)), None)
    if option is None:
        return error
    action = "Correct the option; --help describes it."
    named = type(error)(option, expected=error.expected, actual=error.actual, action=action)
    named.__cause__ = error
    return named


def _file_error(error: OSError) -> LinesideError | None:
    """Returns the error for a file that can't be read or written and that nobody checked, or ``None``."""
    if is_disk_full(error):
        action = "Free some space, and run the command again."
        return DiskFullError(f"{error.filename or 'a file'} cannot be written: {error.strerror}", action=action)
    if error.filename is None or isinstance(error.filename, int):
        return None
    if isinstance(error, FileNotFoundError):
        return InputNotFoundError(f"{error.filename}: {error.strerror}")
    action = "Name another place, or change who may read and write there."
    return InputError(f"{error.filename}: {error.strerror}", action=action)


def parser_of(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the parser with the arguments of the command that ``arguments`` names."""
    parser = CommandParser(prog="lineside", description="Inspect parts on the line with small INT8 models.")
    parser.add_argument("--version", action="version", version=f"lineside {__version__}")
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        help="log level on stderr (default: warning; info for agent, hub and broker)",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    wanted = _command(arguments)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == wanted:
            importlib.import_module(_module(name)).add_arguments(command)
    return parser


def _module(name: str) -> str:
    package = next((f"{package}." for package, names in PACKAGES.items() if name in names), "")
    return f"lineside.commands.{package}{name.replace('-', '_')}"
