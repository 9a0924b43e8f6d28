"""Objective of detectors: canvases, loss, and mAP@0.5 on the held-out share."""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor, nn

from lineside_converters.training.data.batches import Mixer, TrainingBatch
from lineside_converters.training.detection.accuracy import find_all, judge, map50
from lineside_converters.training.detection.bundle_facts import postprocess
from lineside_converters.training.detection.data import DetectionData
from lineside_converters.training.detection.loss import detection_loss
from lineside_converters.training.detection.score_calibration import calibrate, choose_thresholds
from lineside_converters.training.objective import Done, LabelledObjective, Outputs
from lineside_runtime.bundle import Postprocess

MOSAICS_UNTIL = 0.8  # of the run; in the last fifth images come as they are


class DetectionObjective(LabelledObjective[TrainingBatch]):
    """Boxes of one or more data sets."""

    def __init__(self, data: DetectionData, mixer: Mixer, *, epoch_steps: int) -> None:
        """Takes the data and their mixer."""
        self._data, self._mixer = data, mixer
        self.epoch_steps = epoch_steps
        self.facts = {d.name: {"train": len(d.train), "clean": len(d.clean), "held": len(d.held)} for d in data.domains}

    def batches(self, first_step: int, done: Done) -> Generator[TrainingBatch, None, None]:
        """Yields mixed canvases, with mosaics until the last fifth of the run."""
        return self._mixer.stream(first_step, mosaics_at=lambda step: done(step) < MOSAICS_UNTIL)

    def late_batches(self, first_step: int, done: Done) -> Generator[TrainingBatch, None, None]:
        """Yields canvases without mosaics."""
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
        """Returns a score calibration and a threshold of each type, fitted on the held-out share."""
        held = [picture for domain in self._data.domains for picture in domain.held]
        finds = judge(held, find_all(model, held, self._data.preprocess), len(self._data.labels))
        maps = calibrate(finds.best, finds.present)
        return maps, choose_thresholds(finds, maps)
