"""State of a training run, and its file: a kill at any moment costs one epoch at most."""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lineside_runtime.errors import TrainingError
from lineside_runtime.files import write_atomic

_PLAIN = ("step", "elapsed_s", "best", "curve", "losses", "starts")


@dataclass(slots=True)
class TrainingRun:
    """State of a training, as a checkpoint holds it.

    Attributes:
        ema: Moving average of its weights.
        optimizer: With the learning rates.
        elapsed_s: Training time so far.
        best: Mean of the figures of the best evaluation.
        curve: A row for each evaluation: ``step``, ``elapsed_s`` and the figures by name.
        losses: A row for each epoch: ``step``, ``loss`` (mean of its steps) and ``learning_rate`` (its last).
        starts: The settings of each start.
    """

    model: nn.Module
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    elapsed_s: float = 0.0
    best: float = -math.inf
    curve: list[dict[str, float]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Returns all of it as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **self.plain_state(),
        }

    def plain_state(self) -> dict[str, Any]:
        """Returns the part of `state` without tensors."""
        return {name: getattr(self, name) for name in _PLAIN}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned; the learning rates stay this run's."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        peaks = self.peaks()
        self.optimizer.load_state_dict(state["optimizer"])
        self.restore_plain(state, peaks)

    def peaks(self) -> list[float]:
        """Returns the peak learning rate of each parameter group."""
        return [group["peak"] for group in self.optimizer.param_groups]

    def restore_plain(self, state: dict[str, Any], peaks: list[float]) -> None:
        """Takes over what `plain_state` returned, and puts the peak learning rates back.

        They are this run's, also where it was resumed because the old ones made the loss diverge.
        """
        for group, peak in zip(self.optimizer.param_groups, peaks, strict=True):
            group["peak"] = peak
        for name in _PLAIN:
            setattr(self, name, state.get(name, []) if name == "losses" else state[name])  # old checkpoints lack losses


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values so that ``path`` is always a whole file.

    Raises:
        DiskFullError: There is no space; the file before is still there.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote; no code in the file is run.

    Raises:
        TrainingError: The file is missing or damaged.
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
