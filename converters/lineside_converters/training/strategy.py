"""What the training loop asks of whoever runs it: alone in one process, or as one of several workers.

The loop knows of no other process. What several workers do together stands behind `Strategy`: who makes which rows of
a step's batch, how gradients are averaged, who evaluates, and what a checkpoint holds. `ALONE` does none of it, and
the loop computes with it what it computed before there was a strategy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

if TYPE_CHECKING:
    from pathlib import Path

    from lineside_converters.training.loop import TrainingRun

B = TypeVar("B")
_PARTS = 13
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class BatchPart:
    """A worker's share of each batch.

    Attributes:
        number: Of the worker.
        first: Where its share begins, 0 to 1.
        last: Where it ends.
    """

    number: int
    first: float
    last: float

    def rows(self, batch: int) -> slice:
        """Returns which rows of a batch are this worker's; those of all workers make the batch, and none is twice."""
        return slice(round(self.first * batch), round(self.last * batch))


Parts = Callable[[int], BatchPart | None]
"""Of a step's number: this worker's part of its batch, or ``None`` for all of it."""


def whole(step: int) -> None:
    """Says of every step that all of its batch is this process's."""
    del step


class Strategy:
    """One process.

    Attributes:
        rank: Of this worker.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    def part(self, step: int) -> BatchPart | None:
        """Returns this worker's part of a step's batch, or ``None`` for all of it."""
        del step
        return None

    def prepare(self, model: nn.Module, ema: AveragedModel, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Takes a network before its first step.

        Args:
            model: The network; may be changed in place.
            ema: Its moving average; may be changed in place.
            groups: Of its parameters, as for an optimiser.

        Returns:
            The optimiser.
        """
        del model, ema
        return torch.optim.AdamW(groups)

    def forward(self, run: TrainingRun, loss: Callable[[nn.Module, B], Tensor], batch: B) -> Tensor:
        """Returns the loss of this worker's part of a batch."""
        return loss(run.model, batch)

    def backward(self, run: TrainingRun, total: Tensor) -> None:
        """Leaves the gradients of the whole batch with the parameters."""
        del run
        torch.autograd.backward(total)

    def step_ended(self, run: TrainingRun) -> None:
        """Is told that a step is over."""

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
        """Returns what a checkpoint holds; of use to any number of workers."""
        return run.state()

    def restore(self, run: TrainingRun, state: dict[str, Any]) -> None:
        """Takes over what `state` gave."""
        run.restore(state)

    def saved(self, run: TrainingRun, out: Path, figures: Figures) -> None:
        """Is told that a checkpoint lies in the run's folder.

        Args:
            run: As it is.
            out: The folder.
            figures: Of the evaluation, if there was one.
        """


ALONE = Strategy()


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Returns a copy of a network's state."""
    return {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}


def rng_of(seed: int, step: int, part: BatchPart | None) -> np.random.Generator:
    """Returns what a step's batch is drawn with, or a worker's part of it."""
    return np.random.default_rng((seed, step) if part is None else (seed, step, _PARTS, part.number))
