"""What tests let tasks do. A task imports this module and not the test's, which takes six seconds with torch."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lineside_runtime.errors import DatasetError

if TYPE_CHECKING:
    from lineside_converters.search.space import SearchChoice
    from lineside_converters.search.trials import SearchContext, SearchTrial


def square(number: int) -> int:
    if number < 0:
        raise DatasetError("a negative number", expected="0 or more", actual=number)
    return number * number


def invert(number: int) -> float:
    return 1 / number


def die_at(folder: Path, deaths: int, number: int) -> int:
    """Kills its process at the number 2, so many times."""
    before = len(list(folder.iterdir()))
    if number == 2 and before < deaths:
        (folder / str(before)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def wait_until_there(path: Path) -> None:
    """Holds the task's core until a file is there."""
    while not path.exists():
        time.sleep(0.05)


def predict_and_die_once(folder: Path, context: SearchContext, choice: SearchChoice) -> SearchTrial:
    """Kills the first process that tries a choice."""
    from lineside_converters.search.progressive import PREDICTED

    try:
        (folder / "killed").touch(exist_ok=False)
    except FileExistsError:
        return PREDICTED.measure(context, choice)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed")
