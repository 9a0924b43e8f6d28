"""Which kind of training fits a model and its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lineside_converters.distillation.losses import DistillationLoss
from lineside_converters.training.bundle_facts import PREPROCESS
from lineside_converters.training.classification.data import ClassificationObjective, CropLook, load_classes
from lineside_converters.training.config import TrainConfig
from lineside_converters.training.data.batches import Mixer
from lineside_converters.training.data.samples import DOMAINS, load_domain
from lineside_converters.training.detection.data import DetectionData, canvases_per_domain, steps_per_epoch
from lineside_converters.training.objectives import DetectionObjective, FrameObjective, TrainingObjective
from lineside_models.datasets import load_dataset
from lineside_models.labels import LABELS
from lineside_runtime.bundle import Manifest, Preprocess

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
    """Return an objective on the train folds of annotated data if model and data are of one kind, else on frames.

    Args:
        manifest: Of the model.
        data: Folders of annotated images; may be empty.
        frames: Prepared inputs.
        teacher: The model itself.
        distillation_loss: Distance of a student's outputs from the teacher's.
        batch: Frames a step.
        seed: Of everything random.

    Raises:
        DatasetError: A folder can't be read.
    """
    if data and _is_surface_detector(manifest, data):
        return detector_objective(data, batch=batch, seed=seed)
    look = look_of(manifest.preprocess)
    if data and manifest.task == "classification" and look is not None:
        classes = load_classes(data, look=look, held_share=HELD_SHARE, labels=manifest.labels)
        return ClassificationObjective(classes, batch=batch, seed=seed)
    return FrameObjective(frames, teacher, distillation_loss, batch=batch, seed=seed)


def _is_surface_detector(manifest: Manifest, data: Sequence[Path]) -> bool:
    alike = manifest.labels == LABELS and manifest.preprocess == PREPROCESS
    return alike and all(load_dataset(folder).name in DOMAINS for folder in data)


def detector_objective(data: Sequence[Path], *, batch: int = 16, seed: int = 0) -> DetectionObjective:
    """Returns the surface detector's objective.

    Args:
        data: Folders in the layouts of neu-det and deeppcb; only their train folds are read.
        batch: Canvases a step.
        seed: Of everything random.
    """
    config = TrainConfig(
        data=tuple(data),
        out=Path(),
        batch=batch,
        seed=seed,
        pcb_share=PCB_SHARE,
        simulated_share=SIMULATED_SHARE,
        held_share=HELD_SHARE,
    )
    domains = tuple(load_domain(folder, held_share=HELD_SHARE, simulate=True) for folder in data)
    counts = canvases_per_domain(config, domains)
    mixer = Mixer(domains, counts, config=config)
    epoch_steps = steps_per_epoch(counts, domains)
    return DetectionObjective(DetectionData(LABELS, PREPROCESS, domains), mixer, epoch_steps=epoch_steps)


def look_of(preprocess: Preprocess) -> CropLook | None:
    """Returns how a classifier sees a picture; ``None`` where its input has no one square size."""
    size = preprocess.size
    colour = preprocess.colour
    if size is None or size[0] != size[1] or colour == "none":
        return None
    return CropLook(size[0], colour, tuple(preprocess.mean), tuple(preprocess.std))
