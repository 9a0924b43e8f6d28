"""Progress of a training run, as its listeners receive it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """State of a run after one step.

    Attributes:
        epoch: Counted from 0.
        step: Counted from 0 over the whole run.
        steps: Steps of the whole run if no time budget ends it.
        learning_rate: The highest of this step.
        elapsed_s: Training time so far, resumed parts included.
        held: Figures on the held-out share, by name, after an evaluation; empty otherwise.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    elapsed_s: float
    remaining_s: float
    held: dict[str, float]


OnProgress = Callable[[TrainingProgress], None]
"""Called after every step, in the thread that trains."""
