"""Where the data for development lie: ``shared/data`` beside the repository, or further up; never part of it."""

from __future__ import annotations

from pathlib import Path


def shared(name: str) -> Path:
    """Returns the folder of a data set.

    Raises:
        FileNotFoundError: It isn't on this machine.
    """
    for parent in Path(__file__).resolve().parents[2:]:
        folder = parent / "shared" / "data" / name
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no shared/data/{name} beside the repository")
