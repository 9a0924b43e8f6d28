"""What differs between training in one process and as one of several workers.

The loop knows of no other process. `Strategy` decides which rows of a batch this process makes, how gradients are
averaged, who evaluates, and what a checkpoint holds. `ALONE` is one process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lineside_converters.training.checkpoints import TrainingRun

B = TypeVar("B")
_PARTS = 13
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class BatchPart:
    """Share of each batch that one worker makes.

    Attributes:
        number: Rank of the worker.
        first: Begin of its share, 0 to 1.
        last: End of its share.
    """

    number: int
    first: float
    last: float

    def rows(self, batch: int) -> slice:
        """Returns the rows of this worker; those of all workers make up the batch without overlap."""
        return slice(round(self.first * batch), round(self.last * batch))


Parts = Callable[[int], BatchPart | None]
"""This worker's part of a step's batch by the step's number; ``None`` for the whole batch."""


def whole(step: int) -> None:
    """Makes the whole batch of every step in this process."""
    del step


class Strategy:
    """Training in one process; the base of training in several."""

    rank: int = 0
    world: int = 1

    def part(self, step: int) -> BatchPart | None:
        """Returns this worker's part of a step's batch; ``None`` for the whole batch."""
        del step
        return None

    def prepare(self, model: nn.Module, ema: AveragedModel, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Returns the optimiser of a network; network and average may be changed in place."""
        del model, ema
        return torch.optim.AdamW(groups, fused=True)

    def forward(self, run: TrainingRun, loss: Callable[[nn.Module, B], Tensor], batch: B) -> Tensor:
        """Returns the loss of this worker's part of a batch."""
        return loss(run.model, batch)

    def backward(self, run: TrainingRun, total: Tensor) -> None:
        """Leave the gradients of the whole batch with the parameters."""
        del run
        torch.autograd.backward(total)

    def clip(self, run: TrainingRun, largest_norm: float) -> None:
        """Scales the gradients down to this norm, if theirs is larger."""
        nn.utils.clip_grad_norm_(run.model.parameters(), largest_norm)

    def update_average(self, run: TrainingRun) -> None:
        """Moves the average of the weights after the optimiser's step."""
        run.ema.update_parameters(run.model)

    def step_ended(self, run: TrainingRun) -> None:
        """Does what follows a step."""

    def agree(self, value: float) -> float:
        """Returns the first worker's value."""
        return value

    def mean(self, value: float) -> float:
        """Returns the mean over the workers."""
        return value

    def evaluate(self, run: TrainingRun, evaluate: Callable[[nn.Module], Figures]) -> Figures:
        """Returns the figures of the averaged network, the same on all workers."""
        return evaluate(run.ema.module)

    def best(self, run: TrainingRun) -> dict[str, Tensor]:
        """Returns a copy of the averaged network's state."""
        return copied(run.ema.module)

    def state(self, run: TrainingRun) -> dict[str, Any]:
        """Returns the content of a checkpoint, which any number of workers can resume from."""
        return run.state()

    def restore(self, run: TrainingRun, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        run.restore(state)

    def checkpoint_due(self, run: TrainingRun) -> bool:
        """Returns whether a checkpoint is due before the epoch ends."""
        del run
        return False

    def saved(self, run: TrainingRun, out: Path, figures: Figures) -> None:
        """Does what follows a checkpoint in folder ``out``; ``figures`` are those of its evaluation, if any."""


ALONE = Strategy()


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Returns a copy of a network's state."""
    return {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}


def rng_of(seed: int, step: int, part: BatchPart | None) -> np.random.Generator:
    """Returns the random generator of a step's batch, or of a worker's part of it."""
    return np.random.default_rng((seed, step) if part is None else (seed, step, _PARTS, part.number))
