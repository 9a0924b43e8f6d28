"""Command line of the modules that make shipped bundles."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from lineside_runtime.errors import LinesideError


def run_builder(build: Callable[..., object], doc: str) -> int:
    """Runs the command line of a module that makes shipped bundles; returns the exit code.

    Args:
        build: Takes a folder, and ``overwrite``.
        doc: Of the module; its first line describes the command.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace what stands there")
    options = parser.parse_args()
    try:
        build(options.out, overwrite=options.overwrite)
    except LinesideError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
