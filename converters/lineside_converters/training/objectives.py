"""What a network is taught with: batches, what is true of them, and how good it is on what was kept aside.

One class a kind of task. Training, distillation and the fine-tuning of a pruned network all run on the same objective.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lineside_converters.distillation.losses import DistillationLoss, Outputs, as_tuple
from lineside_converters.training.bundle_facts import postprocess
from lineside_converters.training.data.batches import Mixer, TrainingBatch
from lineside_converters.training.detection.data import DetectionData
from lineside_converters.training.detection.loss import detection_loss
from lineside_converters.training.holdout_accuracy import find_all, judge, map50
from lineside_converters.training.score_calibration import calibrate, choose_thresholds
from lineside_runtime.bundle import Postprocess

B = TypeVar("B")
Done = Callable[[int], float]

MOSAICS_UNTIL = 0.8  # of the run; the last fifth sees images as they are


class TrainingObjective(abc.ABC, Generic[B]):
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

    def reading(self, model: nn.Module) -> Postprocess | None:
        """Returns how a network's outputs are read, scores and thresholds fitted on what was kept aside.

        ``None`` where nothing is fitted: then they are read as the teacher's.
        """
        return None

    def some(self, count: int, *, first: int = 0) -> list[Tensor]:
        """Returns the inputs of ``count`` batches as they are late in a run, when nothing odd is done to them."""
        stream = self.batches(first, lambda _: 1.0)
        try:
            return [self.images(next(stream)).contiguous() for _ in range(count)]
        finally:
            stream.close()


class DetectionObjective(TrainingObjective[TrainingBatch]):
    """Pictures with boxes, of one or more data sets."""

    def __init__(self, data: DetectionData, mixer: Mixer, *, epoch_steps: int) -> None:
        """Takes what `lineside_converters.training.detection.data` read."""
        self._data, self._mixer = data, mixer
        self.epoch_steps = epoch_steps
        self.facts = {d.name: {"train": len(d.train), "clean": len(d.clean), "held": len(d.held)} for d in data.domains}

    def batches(self, first_step: int, done: Done) -> Generator[TrainingBatch, None, None]:
        """Yields mixed canvases, with mosaics until the last fifth of the run."""
        return self._mixer.stream(first_step, mosaics_at=lambda step: done(step) < MOSAICS_UNTIL)

    def late_batches(self, first_step: int, done: Done) -> Generator[TrainingBatch, None, None]:
        """Yields canvases as they are late in a run, without mosaics."""
        del done
        return self.batches(first_step, lambda _: 1.0)

    def images(self, batch: TrainingBatch) -> Tensor:
        """Returns ``(B, 1, S, S)``."""
        return batch.images

    def true_loss(self, outputs: Outputs, batch: TrainingBatch) -> Tensor:
        """Returns the detector's own loss."""
        return detection_loss(tuple(outputs), true_boxes=batch.boxes, true_labels=batch.labels).total

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns mAP@0.5 by data set."""
        how, labels = self._data.preprocess, self._data.labels
        return {each.name: map50(each.held, find_all(model, each.held, how), labels) for each in self._data.domains}

    def reading(self, model: nn.Module) -> Postprocess:
        """Returns the post-processing with a score calibration and thresholds of the network's own."""
        maps, thresholds = self.fitted(model)
        return postprocess(maps, thresholds)

    def fitted(self, model: nn.Module) -> tuple[tuple[tuple[float, float], ...], tuple[float, ...]]:
        """Returns a score calibration and a threshold of each type, fitted on what was kept aside."""
        held = [picture for domain in self._data.domains for picture in domain.held]
        finds = judge(held, find_all(model, held, self._data.preprocess), len(self._data.labels))
        maps = calibrate(finds)
        return maps, choose_thresholds(finds, maps)


class FrameObjective(TrainingObjective[Tensor]):
    """Frames of which nothing is known: only a teacher's answers can be learnt.

    Frames of one size make a batch; they are mirrored at random and made brighter or darker.
    """

    def __init__(
        self,
        frames: Sequence[Tensor],
        teacher: nn.Module,
        distillation_loss: DistillationLoss,
        *,
        batch: int,
        seed: int,
    ) -> None:
        """Takes the frames; every fourth is kept aside where there are enough.

        Args:
            frames: Prepared inputs, each ``(1, …)``.
            teacher: Whose answers the held frames are judged by.
            distillation_loss: How far apart answers are.
            batch: Frames a step.
            seed: Of the order and of what is done to the frames.
        """
        self._held = list(frames[3::4]) or list(frames)
        rest = [frame for number, frame in enumerate(frames) if number % 4 != 3] or list(frames)
        self._groups = _by_shape(rest)
        self._teacher, self._distillation_loss, self._batch, self._seed = teacher, distillation_loss, batch, seed
        self.epoch_steps = max(1, -(-len(rest) // batch))
        self.facts = {"frames": len(rest), "held": len(self._held)}

    def batches(self, first_step: int, done: Done) -> Generator[Tensor, None, None]:
        """Yields batches of frames of one size each, the sizes in turn."""
        step = first_step
        while True:
            rng = np.random.default_rng((self._seed, step))
            group = self._groups[step % len(self._groups)]
            chosen = rng.choice(len(group), min(self._batch, len(group)), replace=False)
            batch = torch.cat([group[int(index)] for index in chosen])
            yield _varied(batch, rng) if done(step) < 1 else batch
            step += 1

    def images(self, batch: Tensor) -> Tensor:
        """Returns the batch."""
        return batch

    def true_loss(self, outputs: Outputs, batch: Tensor) -> None:
        """Returns ``None``: nothing is known to be true."""

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns how near the answers on the held frames are to the teacher's: 0 is the same, less is further."""
        model.eval()
        harms = [
            self._distillation_loss.harm(as_tuple(model(frame)), as_tuple(self._teacher(frame))) for frame in self._held
        ]
        return {"agreement": -float(np.mean(harms))}


def _by_shape(frames: Sequence[Tensor]) -> list[list[Tensor]]:
    groups: dict[tuple[int, ...], list[Tensor]] = {}
    for frame in frames:
        groups.setdefault(tuple(frame.shape), []).append(frame)
    return list(groups.values())


def _varied(batch: Tensor, rng: np.random.Generator) -> Tensor:
    if batch.ndim != 4:
        return batch
    axes = [axis for axis in (2, 3) if rng.random() < 0.5]
    turned = batch.flip(axes) if axes else batch
    return turned * float(rng.uniform(0.9, 1.1)) + float(rng.uniform(-0.08, 0.08))
