"""The smoke run: every benchmark once, as small as it gets, to find one that cannot run any more.

`benchmarks.harness` sets the variable `FOLDER_VARIABLE` before it starts the processes of a smoke run, so that a
constant has its small value in the processes that a benchmark starts as well.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

FOLDER_VARIABLE = "LINESIDE_BENCHMARKS_SMOKE"
SMOKE = FOLDER_VARIABLE in os.environ

Value = TypeVar("Value")


def scaled(full: Value, *, smoke: Value) -> Value:
    """Returns the first value, or the second one in a smoke run."""
    return smoke if SMOKE else full


def kept(name: str) -> Path:
    """Returns a folder for work that a later run resumes; in a smoke run a new one each time."""
    return Path(os.environ[FOLDER_VARIABLE]) / name if SMOKE else Path(__file__).parent / name
