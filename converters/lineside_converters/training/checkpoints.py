"""Keeping a run's state on disk so that a kill at any moment costs one epoch at most."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from lineside_runtime.errors import TrainingError
from lineside_runtime.files import write_atomic


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values so that ``path`` is always a whole file.

    Raises:
        DiskFullError: There is no room; the file before is still there.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote; nothing in the file is run.

    Raises:
        TrainingError: The file is not there or is damaged.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"{path.name} cannot be resumed from", actual=error, action="Start again without resume."
        ) from error
    if not isinstance(state, dict):
        raise TrainingError(f"{path.name} is no checkpoint", expected="a dict", actual=type(state).__name__)
    return state
