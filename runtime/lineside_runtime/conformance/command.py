"""The command: ``python -m lineside_runtime.conformance ENGINE`` and ``lineside conformance ENGINE``."""

from __future__ import annotations

import argparse
import faulthandler
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from lineside_runtime import registry
from lineside_runtime.backend import Backend
from lineside_runtime.conformance.checks import CHECKS, Check
from lineside_runtime.conformance.kit import title
from lineside_runtime.conformance.networks import NETWORKS
from lineside_runtime.conformance.report import ConformanceReport, foot, head, line, run
from lineside_runtime.conformance.subject import EngineSubject, subject
from lineside_runtime.errors import ConfigError, LinesideError, NoDeviceError

CHECK_MAX_S = 300
"""A check that takes longer hangs: the process ends and says where."""


_STDERR = 2
"""The process's own, whatever Python's ``sys.stderr`` is at the moment."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument(
        "engine", help="its name, such as ort, or that of an entry point in the group lineside.backends"
    )
    parser.add_argument("--device", help="such as gpu:0; all that the engine finds if it isn't given")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NETWORK=FILE",
        help=f"a network in the engine's own format: {', '.join(one.name for one in NETWORKS)}; may be repeated",
    )
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="a folder of such files, named NETWORK.SUFFIX")
    parser.add_argument("--only", metavar="WORDS", help="only the checks whose names hold these words")
    parser.add_argument("--isolated", action="store_true", help="in a process of its own, as Config.isolate does")
    parser.add_argument("--python", metavar="FILE", help="the interpreter that has the engine, with --isolated")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, the table on stderr")


def execute(options: argparse.Namespace) -> int:
    """Puts an engine through the checks; returns 0 if it conforms on every device, 1 if not.

    Raises:
        LinesideError: There is nothing that could be tried.
    """
    faulthandler.enable(file=_STDERR)  # a native crash tells at least where
    checks = _checks(options.only)
    table = sys.stderr if options.json else sys.stdout
    backend = _backend(options)
    names = [options.device] if options.device else [str(device) for device in backend.probe()]
    if not names:
        raise NoDeviceError(f"{backend.name} finds no device here")
    reports: list[ConformanceReport] = []
    for name in names:
        one = subject(backend, name, folder=options.models, files=_files(options.model))
        print(head(one), file=table)
        reports.append(_run(one, checks, table))
        print(f"{foot(reports[-1])}\n", file=table)
    if options.json:
        sys.stdout.write(
            msgspec.json.encode({"conforms": all(r.conforms for r in reports), "reports": reports}).decode()
        )
        sys.stdout.write("\n")
    return 0 if all(report.conforms for report in reports) else 1


def _run(one: EngineSubject, checks: tuple[Check, ...], table: TextIO) -> ConformanceReport:
    def timed(check: Check) -> Check:
        @functools.wraps(check)
        def with_limit(which: EngineSubject) -> str:
            faulthandler.dump_traceback_later(CHECK_MAX_S, exit=True, file=_STDERR)
            try:
                return check(which)
            finally:
                faulthandler.cancel_dump_traceback_later()

        return with_limit

    return run(
        one,
        [timed(check) for check in checks],
        on_outcome=lambda outcome: print(line(outcome), file=table, flush=True),
    )


def _backend(options: argparse.Namespace) -> Backend:
    if not options.isolated:
        if options.python:
            raise ConfigError("--python needs --isolated", action="Give both.")
        return registry.backend(options.engine)
    from lineside_runtime.engine_process.engine import isolated

    entry = f"{options.engine}={options.python}" if options.python else str(options.engine)
    return isolated(entry, float(CHECK_MAX_S))


def _checks(words: str | None) -> tuple[Check, ...]:
    chosen = tuple(check for check in CHECKS if (words or "") in title(check))
    if not chosen:
        raise ConfigError("no such check", expected="; ".join(map(title, CHECKS)), actual=words, action="")
    return chosen


def _files(pairs: Sequence[str]) -> dict[str, Path]:
    parts = [pair.partition("=") for pair in pairs]
    if not all(name and equals and file for name, equals, file in parts):
        raise ConfigError("--model", expected="NETWORK=FILE", actual=" ".join(pairs), action="")
    return {name: Path(file) for name, _, file in parts}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments; those of the process if ``None``."""
    parser = argparse.ArgumentParser(
        prog="python -m lineside_runtime.conformance", description="Does this engine do what every engine must do?"
    )
    add_arguments(parser)
    try:
        return execute(parser.parse_args(argv))
    except LinesideError as error:
        sys.stderr.write(f"conformance: {error}\n")
        return 1
