"""Training objective: batches, their loss, and accuracy on the held-out share.

One class for each kind of task. Training, distillation and the fine-tuning of a pruned network run on the same
objectives.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from lineside_runtime.bundle import Postprocess

B = TypeVar("B")
Done = Callable[[int], float]
Outputs = Sequence[Tensor]


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    """Returns a module's outputs as a tuple."""
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


class TrainingObjective(abc.ABC, Generic[B]):
    """Data, loss and accuracy of one task.

    Attributes:
        epoch_steps: Batches of one pass.
        facts: Description of the data for reports; names only, no paths.
    """

    epoch_steps: int
    facts: dict[str, Any]

    @abc.abstractmethod
    def batches(self, first_step: int, done: Done) -> Generator[B, None, None]:
        """Yields the batches from a step on; each follows from the seed and its number alone.

        Args:
            done: Share of the run that is over at a step, 0 to 1.
        """

    @abc.abstractmethod
    def images(self, batch: B) -> Tensor:
        """Returns the network's input."""

    @abc.abstractmethod
    def true_loss(self, outputs: Outputs, batch: B) -> Tensor | None:
        """Returns the loss against the annotations; ``None`` if there are none."""

    @abc.abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns figures on the held-out share; more is better."""

    def reading(self, model: nn.Module) -> Postprocess | None:
        """Returns the post-processing of a network, its scores and thresholds fitted on the held-out share.

        ``None`` if nothing is fitted: the teacher's post-processing holds then.
        """
        return None

    def some(self, count: int, *, first: int = 0) -> list[Tensor]:
        """Returns the inputs of ``count`` batches without the augmentations that end before the run does."""
        stream = self.batches(first, lambda _: 1.0)
        try:
            return [self.images(next(stream)).contiguous() for _ in range(count)]
        finally:
            stream.close()


class LabelledObjective(TrainingObjective[B]):
    """Annotated data: every batch has a loss of its own."""

    @abc.abstractmethod
    def true_loss(self, outputs: Outputs, batch: B) -> Tensor:
        """Returns the loss against the annotations."""
