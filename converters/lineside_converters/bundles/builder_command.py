"""Command line of the modules that make shipped bundles."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lineside_runtime.errors import LinesideError


def run_builder(build: Callable[..., object], doc: str, options: Sequence[tuple[str, type, object, str]] = ()) -> int:
    """Runs the command line of a module that makes shipped bundles; returns the exit code.

    Args:
        build: Takes a folder, ``overwrite`` and the further options.
        doc: Of the module; its first line describes the command.
        options: Name, type, default and help of each further option.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace what stands there")
    for name, kind, default, text in options:
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (default: %(default)s)")
    try:
        build(**vars(parser.parse_args()))
    except LinesideError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
