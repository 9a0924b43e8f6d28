"""Selection of the training objective that fits a model and its data."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from lineside_converters.distillation.losses import DistillationLoss
from lineside_converters.training.classification.data import ClassifierInput, load_classes
from lineside_converters.training.classification.objective import ClassificationObjective
from lineside_converters.training.data.batches import Mixer
from lineside_converters.training.data.samples import DOMAINS, load_domain
from lineside_converters.training.detection.bundle_facts import OUTPUTS, PREPROCESS
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.data import (
    DetectionData,
    canvases_per_domain,
    load_detection_data,
    steps_per_epoch,
)
from lineside_converters.training.detection.objective import DetectionObjective
from lineside_converters.training.objective import Done, Outputs, TrainingObjective, as_tuple
from lineside_models.datasets import load_dataset
from lineside_models.datasets.folds import has_fold
from lineside_models.labels import LABELS
from lineside_runtime.bundle import Manifest, Preprocess

log = logging.getLogger("lineside.training")

HELD_SHARE = 0.08
PCB_SHARE = 0.375
SIMULATED_SHARE = 0.05


def objective_for(
    manifest: Manifest,
    data: Sequence[Path],
    frames: Sequence[Tensor],
    teacher: nn.Module,
    distillation_loss: DistillationLoss,
    *,
    batch: int,
    seed: int,
) -> TrainingObjective[Any]:
    """Returns an objective on the train folds of annotated data if model and data are of one kind, else on frames.

    Args:
        data: Folders of annotated images; may be empty.
        distillation_loss: Distance of a student's outputs from the teacher's.

    Raises:
        DatasetError: A folder can't be read.
    """
    if data and _is_surface_detector(manifest, data):
        return detector_objective(data, batch=batch, seed=seed)
    if data and (config := _config_of(manifest, data, batch=batch, seed=seed)) is not None:
        boxes = load_detection_data(config)
        if boxes.preprocess == manifest.preprocess:
            return _objective_of(boxes, config)
        log.warning(
            "%s: the data are of another scale than the model's input, so that only its answers are learned",
            manifest.name,
        )
    look = look_of(manifest.preprocess)
    if data and manifest.task == "classification" and look is not None:
        classes = load_classes(data, look=look, held_share=HELD_SHARE, labels=manifest.labels)
        return ClassificationObjective(classes, batch=batch, seed=seed)
    return FrameObjective(frames, teacher, distillation_loss, batch=batch, seed=seed)


def _is_surface_detector(manifest: Manifest, data: Sequence[Path]) -> bool:
    alike = manifest.labels == LABELS and manifest.preprocess == PREPROCESS
    return alike and all(load_dataset(folder).name in DOMAINS for folder in data)


def detector_objective(data: Sequence[Path], *, batch: int = 16, seed: int = 0) -> DetectionObjective:
    """Returns the surface detector's objective."""
    config = DetectorConfig(
        data=tuple(data),
        out=Path(),
        batch=batch,
        seed=seed,
        pcb_share=PCB_SHARE,
        simulated_share=SIMULATED_SHARE,
        held_share=HELD_SHARE,
    )
    domains = tuple(load_domain(folder, held_share=HELD_SHARE, simulate=True) for folder in data)
    return _objective_of(DetectionData(LABELS, PREPROCESS, domains), config)


def _config_of(manifest: Manifest, data: Sequence[Path], *, batch: int, seed: int) -> DetectorConfig | None:
    """Returns the settings with which a detector of lineside was trained for other types; ``None`` for other models."""
    how = manifest.preprocess
    canvas_px = how.min_side or 0
    mine = {spec.name for spec in manifest.outputs} == set(OUTPUTS) and canvas_px >= 64 and canvas_px % 32 == 0
    if not mine or not all(has_fold(root, "train") and load_dataset(root, "train").boxed for root in data):
        return None
    return DetectorConfig(
        data=tuple(data),
        out=Path(),
        batch=max(batch, len(data), 4),
        seed=seed,
        canvas_px=canvas_px,
        labels=manifest.labels,
        held_share=HELD_SHARE,
        simulated_share=0.0,
        reference=how.reference is not msgspec.UNSET,
    )


def _objective_of(data: DetectionData, config: DetectorConfig) -> DetectionObjective:
    counts = canvases_per_domain(config, data.domains)
    mixer = Mixer(data.domains, counts, config=config)
    return DetectionObjective(data, mixer, epoch_steps=steps_per_epoch(counts, data.domains))


def look_of(preprocess: Preprocess) -> ClassifierInput | None:
    """Returns the input of a classifier; ``None`` if it is not of one square size."""
    size = preprocess.size
    colour = preprocess.colour
    if size is None or size[0] != size[1] or colour == "none":
        return None
    return ClassifierInput(size[0], colour, tuple(preprocess.mean), tuple(preprocess.std))


class FrameObjective(TrainingObjective[Tensor]):
    """Frames without annotations: a student can only match its teacher.

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
        """Takes the frames; every fourth is held out if there are enough.

        Args:
            frames: Prepared inputs, each ``(1, …)``.
            teacher: Network to match on the held-out frames.
            seed: Seed of order and augmentation.
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
        """Returns ``None``: there are no annotations."""

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns the negative distance from the teacher's outputs on the held-out frames."""
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
