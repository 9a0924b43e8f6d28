"""Training of a segmenter."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
from torch import Tensor, nn

from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.training.initial_weights import InitialModel, check_outputs, see_new_images, take_labels
from lineside_converters.training.progress import OnProgress
from lineside_converters.training.segmentation.config import SegmenterConfig
from lineside_converters.training.segmentation.data import MaskedData, load_masked
from lineside_converters.training.segmentation.objective import SegmentationObjective, preprocess_of
from lineside_converters.training.trainer import Trainer, TrainingResult, log, two_sizes
from lineside_models.networks.detector import INPUT
from lineside_models.networks.segmenter import STRIDE, SurfaceSegmenter, pretrained_segmenter
from lineside_runtime.bundle import Postprocess

OUTPUT = "maps"
NETWORK = "surface_segmenter_lite0"

SMALL_SHARE = 0.05
"""Share of the true pieces that may be smaller than twice the smallest area that is reported."""


class SegmenterResult(TrainingResult, frozen=True, kw_only=True):
    """Result of a run.

    Attributes:
        labels: The types; the k-th, from 0, is channel k + 1 of the maps.
        held_mean_iou: Of the chosen weights on the held-out share of the train folds.
    """

    labels: tuple[str, ...]
    held_mean_iou: float
    held_iou: dict[str, float]


def train_segmenter(config: SegmenterConfig, on_progress: OnProgress) -> SegmenterResult:
    """Trains a segmenter on the train folds and chooses the best weights.

    Raises:
        TrainingError: The settings or the checkpoint are not usable, or the loss is not finite.
        DatasetError: A data folder is not usable.
    """
    return SegmenterTrainer(config, on_progress).run_alone()


class SegmenterTrainer(Trainer[SegmenterConfig, SegmentationObjective, SegmenterResult]):
    """Training of a surface segmenter."""

    figure = "IoU"

    def load(self) -> SegmentationObjective:
        """Reads the pictures with their masks."""
        config = self.config
        self.data = load_masked(config)
        return SegmentationObjective(
            self.data,
            how=preprocess_of(config.side_px),
            batch=config.batch,
            balance=config.balance,
            seed=config.seed,
            part=self.strategy.part,
        )

    def adapt(self, start: InitialModel) -> str:
        """Gives the maps the labels of the data."""
        check_outputs(start, [OUTPUT], "a segmenter of lineside")
        return take_labels(start, self.data.labels, background=1)

    def pretrained(self) -> nn.Module:
        """Builds a segmenter whose trunk has ImageNet's weights."""
        log.info("starting from an EfficientNet-Lite0 with ImageNet's weights")
        model = pretrained_segmenter(len(self.data.labels), channels=self.config.channels)
        see_new_images(model.trunk, self.first_inputs())
        model.trunk.freeze_early()
        return model

    def build(self) -> nn.Module:
        """Builds a segmenter with random weights."""
        return SurfaceSegmenter(len(self.data.labels), channels=self.config.channels)

    def export(self, model: nn.Module, path: Path) -> float:
        """Writes it with `export_segmenter`."""
        return export_segmenter(model, path)

    def examples(self) -> list[Tensor]:
        """Returns inputs of two sizes."""
        return two_sizes()

    def result(self, model: nn.Module, difference: float) -> SegmenterResult:
        """Evaluate, choose the smallest area that is reported, and write the facts."""
        config, data = self.config, self.data
        held = self.objective.iou(model)
        mean = float(np.mean(list(held.values())))
        params = {"output": OUTPUT, "area_min": area_min(data, config.side_px)}
        facts = {
            "labels": list(data.labels),
            "images": self.objective.facts,
            "held_mean_iou": mean,
            "held_iou": held,
            "preprocess": msgspec.to_builtins(preprocess_of(config.side_px)),
            "postprocess": msgspec.to_builtins(Postprocess(name="segmentation", params=params)),
        }
        self.write_facts(NETWORK, facts, difference)
        return SegmenterResult(
            **self.files,
            labels=data.labels,
            held_mean_iou=mean,
            held_iou=held,
        )


def area_min(data: MaskedData, side_px: int) -> int:
    """Returns the smallest area of a piece that is reported, in cells of the map: half of the 5th percentile."""
    areas: list[float] = []
    for picture in data.train:
        cells = (side_px / max(picture.mask.shape) / STRIDE) ** 2
        _, _, facts, _ = cv2.connectedComponentsWithStats((picture.mask > 0).astype(np.uint8), connectivity=8)
        areas += [float(area) * cells for area in facts[1:, cv2.CC_STAT_AREA]]
    return max(1, int(np.quantile(areas, SMALL_SHARE) / 2))


def export_segmenter(model: nn.Module, path: Path) -> float:
    """Writes a segmenter as ONNX: input ``image``, output ``maps``; batch, height and width are free.

    Returns:
        The largest difference between the graph's and torch's outputs.

    Raises:
        ParityGateError: It is above the tolerance.
    """
    example, wide = two_sizes()
    axes = {
        INPUT: {0: "batch", 2: "height", 3: "width"},
        OUTPUT: {0: "batch", 2: "height_4", 3: "width_4"},
    }
    return export_onnx(
        model, path, example=example, input_name=INPUT, output_names=[OUTPUT], dynamic_axes=axes, check=(wide,)
    )
