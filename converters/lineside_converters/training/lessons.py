"""What a network is taught with: batches, what is true of them, and how good it is on what was kept aside.

One class a kind of task. Training, distillation and the fine-tuning of a pruned network all run on the same lessons.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from lineside_converters.training.batches import Batch, Mixer
from lineside_converters.training.heldout import find_all, map50
from lineside_converters.training.loss import detection_loss
from lineside_converters.training.samples import Domain
from lineside_converters.training.teaching import Outputs

B = TypeVar("B")
Done = Callable[[int], float]

MOSAICS_UNTIL = 0.8  # of the run; the last fifth sees images as they are


class Lessons(abc.ABC, Generic[B]):
    """The data of one task.

    Attributes:
        epoch_steps: Batches of one pass.
        facts: What the data is, for reports; names only, no paths.
    """

    epoch_steps: int
    facts: dict[str, Any]

    @abc.abstractmethod
    def batches(self, first_step: int, done: Done) -> Generator[B, None, None]:
        """Yields the batches from a step on; each follows from the seed and its number alone.

        Args:
            first_step: Number of the first batch.
            done: Says how much of the run is over at a step, 0 to 1.
        """

    @abc.abstractmethod
    def images(self, batch: B) -> Tensor:
        """Returns the network's input."""

    @abc.abstractmethod
    def true_loss(self, outputs: Outputs, batch: B) -> Tensor | None:
        """Returns the loss against what is true, or ``None`` where nothing is known to be."""

    @abc.abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns figures on what was kept aside; more is better."""

    def some(self, count: int, *, first: int = 0) -> list[Tensor]:
        """Returns the inputs of ``count`` batches as they are late in a run, when nothing odd is done to them."""
        stream = self.batches(first, lambda _: 1.0)
        try:
            return [self.images(next(stream)).contiguous() for _ in range(count)]
        finally:
            stream.close()


class DetectorLessons(Lessons[Batch]):
    """Steel and boards for the surface detector."""

    def __init__(self, domains: tuple[Domain, ...], mixer: Mixer, *, epoch_steps: int) -> None:
        """Takes what `lineside_converters.training.samples` read."""
        self._domains, self._mixer = domains, mixer
        self.epoch_steps = epoch_steps
        self.facts = {d.name: {"train": len(d.train), "clean": len(d.clean), "held": len(d.held)} for d in domains}

    def batches(self, first_step: int, done: Done) -> Generator[Batch, None, None]:
        """Yields mixed canvases, with mosaics until the last fifth of the run."""
        return self._mixer.stream(first_step, mosaics_at=lambda step: done(step) < MOSAICS_UNTIL)

    def images(self, batch: Batch) -> Tensor:
        """Returns ``(B, 1, S, S)``."""
        return batch.images

    def true_loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Returns the detector's own loss."""
        return detection_loss(tuple(outputs), true_boxes=batch.boxes, true_labels=batch.labels).total

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns mAP@0.5 by domain."""
        return {domain.name: map50(domain.held, find_all(model, domain.held)) for domain in self._domains}
