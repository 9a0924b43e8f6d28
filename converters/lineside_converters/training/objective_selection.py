"""Which kind of training fits a model and its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lineside_converters.distillation.losses import Teaching
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


def lessons_for(
    manifest: Manifest,
    data: Sequence[Path],
    frames: Sequence[Tensor],
    teacher: nn.Module,
    teaching: Teaching,
    *,
    batch: int,
    seed: int,
) -> TrainingObjective[Any]:
    """Returns lessons from the train folds of annotated data where model and data are of a kind; else from frames.

    Args:
        manifest: Of the model.
        data: Folders of annotated images; may be empty.
        frames: Prepared inputs.
        teacher: The model itself.
        teaching: How its answers are taught.
        batch: Frames a step.
        seed: Of everything random.

    Raises:
        DatasetError: A folder can't be read.
    """
    if data and _is_surface_detector(manifest, data):
        return detector_lessons(data, batch=batch, seed=seed)
    look = look_of(manifest.preprocess)
    if data and manifest.task == "classification" and look is not None:
        classes = load_classes(data, look=look, held_share=HELD_SHARE, labels=manifest.labels)
        return ClassificationObjective(classes, batch=batch, seed=seed)
    return FrameObjective(frames, teacher, teaching, batch=batch, seed=seed)


def _is_surface_detector(manifest: Manifest, data: Sequence[Path]) -> bool:
    alike = manifest.labels == LABELS and manifest.preprocess == PREPROCESS
    return alike and all(load_dataset(folder).name in DOMAINS for folder in data)


def detector_lessons(data: Sequence[Path], *, batch: int = 16, seed: int = 0) -> DetectionObjective:
    """Returns the surface detector's lessons.

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
    course = DetectionData(
        LABELS, PREPROCESS, tuple(load_domain(folder, held_share=HELD_SHARE, simulate=True) for folder in data)
    )
    counts = canvases_per_domain(config, course.domains)
    mixer = Mixer(course.domains, counts, config=config)
    return DetectionObjective(course, mixer, epoch_steps=steps_per_epoch(counts, course.domains))


def look_of(preprocess: Preprocess) -> CropLook | None:
    """Returns how a classifier sees a picture; ``None`` where its input has no one square size."""
    size = preprocess.size
    colour = preprocess.colour
    if size is None or size[0] != size[1] or colour == "none":
        return None
    return CropLook(size[0], colour, tuple(preprocess.mean), tuple(preprocess.std))
