"""Where the data for development lie; they are never part of the repository.

``LINESIDE_DATA`` names the folder that holds the data sets; without it ``shared/data`` beside the repository, or
further up, is used.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "LINESIDE_DATA"


def shared(name: str) -> Path:
    """Returns the folder of a data set.

    Raises:
        FileNotFoundError: It isn't on this machine.
    """
    if given := os.environ.get(VARIABLE):
        folder = Path(given) / name
        if folder.is_dir():
            return folder
        raise FileNotFoundError(f"{VARIABLE}={given} holds no folder {name}")
    for parent in Path(__file__).resolve().parents[2:]:
        folder = parent / "shared" / "data" / name
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"no shared/data/{name} beside the repository; {VARIABLE} names the folder that holds {name}"
    )
