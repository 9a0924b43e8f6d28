"""Training of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import Tensor, nn

from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.training.data.augmentation import TrainingPicture
from lineside_converters.training.data.batches import Mixer
from lineside_converters.training.data.reference_pairs import CHANNELS
from lineside_converters.training.detection.bundle_facts import ARCHITECTURE, OUTPUTS, postprocess
from lineside_converters.training.detection.config import DetectorConfig, channels_of, is_short
from lineside_converters.training.detection.data import canvases_per_domain, load_detection_data, steps_per_epoch
from lineside_converters.training.detection.int8.qat import fine_tune_int8
from lineside_converters.training.detection.objective import DetectionObjective
from lineside_converters.training.detection.reference_start import open_comparing
from lineside_converters.training.initial_weights import (
    NORM_BATCHES,
    PRIOR_BIAS,
    InitialModel,
    check_outputs,
    see_new_images,
    take_labels,
)
from lineside_converters.training.progress import OnProgress
from lineside_converters.training.trainer import Trainer, TrainingResult, log, two_sizes
from lineside_models.networks import build
from lineside_models.networks.detector import INPUT, STRIDES, SurfaceDetector, pretrained_detector
from lineside_runtime.errors import TrainingError


class DetectorResult(TrainingResult, frozen=True, kw_only=True):
    """Result of a run; weights changed by quantisation-aware fine-tuning are in ``float.onnx`` alone.

    Attributes:
        held_map50: By data set, of the chosen weights on the held-out share of the train folds.
        qat: Outcome of quantisation-aware fine-tuning, a `QatResult`; ``None`` without it.
        calibration: Per label ``(a, b)``: probability of being right = sigmoid(a × logit + b).
        thresholds: Per label, on the calibrated score.
    """

    held_map50: dict[str, float]
    qat: dict[str, Any] | None
    calibration: tuple[tuple[float, float], ...]
    thresholds: tuple[float, ...]


def train_detector(config: DetectorConfig, on_progress: OnProgress) -> DetectorResult:
    """Trains a detector on the train folds, chooses the best weights and calibrates their scores.

    Raises:
        TrainingError: The settings or the checkpoint are not usable, or the loss is not finite.
        DatasetError: A data folder is not usable.
    """
    return DetectorTrainer(config, on_progress).run_alone()


class DetectorTrainer(Trainer[DetectorConfig, DetectionObjective, DetectorResult]):
    """Training of a surface detector."""

    figure = "mAP@0.5"
    postprocess = "dfl_anchor_free"

    def load(self) -> DetectionObjective:
        """Reads all data sets, and mixes them in every batch."""
        self.data = load_detection_data(self.config)
        counts = canvases_per_domain(self.config, self.data.domains)
        self.mixer = Mixer(self.data.domains, counts, config=self.config, part=self.strategy.part)
        return DetectionObjective(self.data, self.mixer, epoch_steps=steps_per_epoch(counts, self.data.domains))

    def first_inputs(self) -> list[Tensor]:
        """Returns canvases without mosaics."""
        return [self.mixer.batch(step, mosaics=False).images for step in range(NORM_BATCHES)]

    @property
    def widths(self) -> tuple[float, ...]:
        """Widths of the settings."""
        return self.config.widths

    @property
    def has_imagenet_weights(self) -> bool:
        """Whether the trunk begins with ImageNet's weights."""
        return not self.config.random_weights

    @property
    def inputs(self) -> int:
        """Channels of the network's image."""
        return CHANNELS if self.config.reference else 1

    def open(self, model: Path) -> InitialModel:
        """Returns the model that the run starts from, which compares with a reference if this run does."""
        return open_comparing(model, self.first_inputs()) if self.config.reference else super().open(model)

    def adapt(self, start: InitialModel) -> str:
        """Gives the score heads the labels of the data."""
        check_outputs(start, OUTPUTS, "a surface detector of lineside, such as surface-12")
        return take_labels(start, self.data.labels, heads=len(STRIDES), bias=PRIOR_BIAS)

    def pretrained(self) -> nn.Module:
        """Builds a detector whose trunk has ImageNet's weights, or random ones where the settings say so."""
        if self.config.random_weights:
            log.info("starting from random weights")
            return self.build()
        log.info("starting from an EfficientNet-Lite0 with ImageNet's weights")
        architecture = self.config.architecture or ""
        channels, short = channels_of(architecture), is_short(architecture)
        model = pretrained_detector(len(self.data.labels), channels=channels, inputs=self.inputs, short=short)
        see_new_images(model.trunk, self.first_inputs())
        if not self.widths:
            model.trunk.freeze_early()
        return model

    def build(self) -> nn.Module:
        """Builds a detector with random weights."""
        architecture = self.config.architecture or ""
        channels, short = channels_of(architecture), is_short(architecture)
        model = build(
            ARCHITECTURE,
            num_classes=len(self.data.labels),
            channels=channels,
            inputs=self.inputs,
            short=short,
            folded=not (self.widths or self.config.random_weights),
        )
        if not isinstance(model, SurfaceDetector):
            raise TrainingError(f"{ARCHITECTURE} is no surface detector", actual=type(model).__name__)
        return model

    def export(self, model: nn.Module, path: Path) -> float:
        """Writes it with `export_detector`."""
        return export_detector(model, path, inputs=self.inputs)

    def examples(self) -> list[Tensor]:
        """Returns inputs of two sizes."""
        return two_sizes(self.inputs)

    def result(self, model: nn.Module, difference: float) -> DetectorResult:
        """Fine-tunes for INT8 if asked for, evaluates, calibrates the scores and writes the facts."""
        config, data = self.config, self.data
        onnx, qat = config.out / "float.onnx", None
        if config.qat:
            tuned = fine_tune_int8(config, data, self.objective, onnx, export=self.export, on_progress=self.on_progress)
            qat = tuned.as_dict()
            if tuned.model is not None:
                model, difference = tuned.model, self.export(tuned.model, onnx)
        held = self.objective.evaluate(model)
        calibration, thresholds = self.objective.fitted(model)
        facts = {
            "channels": channels_of(config.architecture or "") if config.first_model is None else None,
            "labels": list(data.labels),
            "images": {
                d.name: {
                    "train": len(d.train),
                    "clean": len(d.clean),
                    "held": len(d.held),
                    "framing": d.framing.kind,
                    "boxes": _box_counts(d.train, data.labels),
                }
                for d in data.domains
            },
            "held_map50": held,
            "qat": qat,
            "preprocess": msgspec.to_builtins(data.preprocess),
            "postprocess": msgspec.to_builtins(postprocess(calibration, thresholds)),
            "calibration": [list(pair) for pair in calibration],
            "thresholds": list(thresholds),
        }
        self.write_facts(ARCHITECTURE, facts, difference)
        return DetectorResult(
            **self.files,
            held_map50=held,
            qat=qat,
            calibration=calibration,
            thresholds=thresholds,
        )


def export_detector(model: nn.Module, path: Path, *, inputs: int = 1) -> float:
    """Writes a detector as ONNX: input ``image``, the six maps as outputs; batch, height and width are free.

    Returns:
        The largest difference between the graph's and torch's outputs.

    Raises:
        ParityGateError: It is above the tolerance.
    """
    axes: dict[str, dict[int, str]] = {INPUT: {0: "batch", 2: "height", 3: "width"}}
    for name in OUTPUTS:
        stride = name.split("_")[1]
        axes[name] = {0: "batch", 2: f"height_{stride}", 3: f"width_{stride}"}
    example, wide = two_sizes(inputs)
    return export_onnx(
        model, path, example=example, input_name=INPUT, output_names=OUTPUTS, dynamic_axes=axes, check=(wide,)
    )


def _box_counts(pictures: Sequence[TrainingPicture], labels: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(np.concatenate([picture.labels for picture in pictures]), minlength=len(labels))
    return {label: int(count) for label, count in zip(labels, counts, strict=True) if count}
