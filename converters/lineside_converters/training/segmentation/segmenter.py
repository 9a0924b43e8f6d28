"""Training of a segmenter of surfaces, on one page."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import cv2
import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.pruning.torch_graph import PrunableNetwork, close_network
from lineside_converters.training import checkpoints
from lineside_converters.training.bundle_facts import INPUT
from lineside_converters.training.config import TrainProgress
from lineside_converters.training.initial_weights import check_outputs, open_start, take_labels
from lineside_converters.training.loop import (
    BEST,
    CHECKPOINT,
    WARM_UP_STEPS,
    TrainingPlan,
    TrainingRun,
    fit,
    parameter_groups,
    start,
)
from lineside_converters.training.pretrained_trunk import NORM_BATCHES, rate_of, see_new_images
from lineside_converters.training.run_folder import begin_run
from lineside_converters.training.segmentation.config import SegmenterConfig
from lineside_converters.training.segmentation.data import MaskedData, load_masked
from lineside_converters.training.segmentation.objective import MaskBatch, SegmentationObjective, preprocess_of
from lineside_converters.training.strategy import ALONE, Strategy
from lineside_models.networks.segmenter import STRIDE, SurfaceSegmenter, pretrained_segmenter
from lineside_runtime.bundle import Postprocess
from lineside_runtime.files import write_atomic

OUTPUT = "maps"
NETWORK = "surface_segmenter_lite0"
log = logging.getLogger("lineside.training")

SMALL_SHARE = 0.05
"""Of the true pieces, so many may be smaller than twice what the decoder leaves out."""


class SegmenterResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a run leaves behind.

    Attributes:
        weights: ``best.pt``, a state dict.
        onnx: ``float.onnx``, the same weights as a graph.
        facts: ``training.json``.
        labels: The types; in the maps the k-th, from 0, is channel k + 1.
        held_mean_iou: Of the chosen weights on the held-out share of the train folds.
        held_iou: The same by type.
    """

    weights: str
    onnx: str
    facts: str
    labels: tuple[str, ...]
    held_mean_iou: float
    held_iou: dict[str, float]


def train_segmenter(config: SegmenterConfig, on_progress: Callable[[TrainProgress], None]) -> SegmenterResult:
    """Trains a segmenter on the train folds and chooses the best weights.

    Writes ``config.toml``, ``checkpoint.pt`` (each epoch), ``curves.html`` and ``best.pt`` (each evaluation),
    ``float.onnx`` and ``training.json`` into ``config.out``.

    Args:
        config: The run's settings.
        on_progress: Called after every step, in this thread.

    Raises:
        TrainingError: The settings or the checkpoint are not usable, or the loss is no number any more.
        DatasetError: A data folder is not usable.
    """
    return learn_segmenter(config, on_progress, ALONE)()


def learn_segmenter(
    config: SegmenterConfig, on_progress: Callable[[TrainProgress], None], strategy: Strategy
) -> Callable[[], SegmenterResult]:
    """Does what all workers do of `train_segmenter`, and returns the rest, which only the first one calls."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    data = load_masked(config)
    begin_run(config)
    objective = SegmentationObjective(
        data,
        how=preprocess_of(config.side_px),
        batch=config.batch,
        balance=config.balance,
        seed=config.seed,
        part=strategy.part,
    )
    network = None if config.start is None else _given(config.start, objective)
    run = _start(config, objective, network, strategy)
    plan = TrainingPlan(
        out=config.out,
        epochs=config.epochs,
        epoch_steps=objective.epoch_steps,
        minutes=config.minutes,
        evaluate_every=config.evaluate_every,
        warm_up_steps=min(WARM_UP_STEPS, config.epochs * objective.epoch_steps // 10),
        judge_start=network is not None,
        figure="IoU",
        settings=config.as_dict(),
    )

    def loss(model: nn.Module, batch: MaskBatch) -> Tensor:
        return objective.true_loss((model(batch.images),), batch)

    fit(
        run,
        plan,
        batches=objective.batches,
        loss=loss,
        evaluate=objective.evaluate,
        on_progress=on_progress,
        strategy=strategy,
    )
    return lambda: _finish(config, run, objective, data, network)


def _given(model: Path, objective: SegmentationObjective) -> PrunableNetwork:
    """Opens what the run begins with, proved on some canvases of the data to come."""
    found = open_start(model, objective.some(NORM_BATCHES))
    check_outputs(found, [OUTPUT], "a segmenter of lineside")
    log.info("starting from %s: %s", found.name, take_labels(found, objective.labels, background=1))
    return found.network


def _start(
    config: SegmenterConfig, objective: SegmentationObjective, network: PrunableNetwork | None, strategy: Strategy
) -> TrainingRun:
    resumed = checkpoints.load(config.out / CHECKPOINT) if config.resume else None
    if network is not None:
        groups = parameter_groups(network.module, lambda _: config.learning_rate)
        return start(network.module, groups, resumed=resumed, strategy=strategy)
    if resumed is None:
        log.info("starting from an EfficientNet-Lite0 with ImageNet's weights")
        model = pretrained_segmenter(len(objective.labels), channels=config.channels)
        see_new_images(model.trunk, objective.some(NORM_BATCHES))
        model.trunk.freeze_early()
    else:
        model = _build(config, objective.labels)
    return start(model, parameter_groups(model, rate_of(config.learning_rate)), resumed=resumed, strategy=strategy)


def _build(config: SegmenterConfig, labels: Sequence[str]) -> SurfaceSegmenter:
    return SurfaceSegmenter(len(labels), channels=config.channels)


def _finish(
    config: SegmenterConfig,
    run: TrainingRun,
    objective: SegmentationObjective,
    data: MaskedData,
    network: PrunableNetwork | None,
) -> SegmenterResult:
    model: nn.Module = _build(config, data.labels) if network is None else network.module
    model.load_state_dict(checkpoints.load(config.out / BEST))
    found = objective.iou(model)
    onnx = config.out / "float.onnx"
    difference = export_segmenter(model, onnx) if network is None else close_network(network, onnx, _two_sizes())
    reading = Postprocess(name="segmentation", params={"output": OUTPUT, "area_min": area_min(data, config.side_px)})
    mean = float(np.mean(list(found.values())))
    facts = {
        "architecture": NETWORK if config.start is None else f"that of {config.start.name}",
        "labels": list(data.labels),
        "starts": run.starts,
        "images": objective.facts,
        "steps": run.step,
        "elapsed_s": round(run.elapsed_s, 1),
        "curve": run.curve,
        "losses": run.losses,
        "held_mean_iou": mean,
        "held_iou": found,
        "preprocess": msgspec.to_builtins(preprocess_of(config.side_px)),
        "postprocess": msgspec.to_builtins(reading),
        "onnx_max_difference": difference,
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "onnx", "numpy")},
        "python": platform.python_version(),
    }
    write_atomic(config.out / "training.json", json.dumps(facts, indent=2).encode())
    return SegmenterResult(
        weights=str(config.out / BEST),
        onnx=str(config.out / "float.onnx"),
        facts=str(config.out / "training.json"),
        labels=data.labels,
        held_mean_iou=mean,
        held_iou=found,
    )


def area_min(data: MaskedData, side_px: int) -> int:
    """Returns below how many cells of the map a piece is left out: half of what all but a few true pieces have.

    Args:
        data: Its pictures to learn from.
        side_px: Long side of the network's input.
    """
    areas: list[float] = []
    for picture in data.train:
        cells = (side_px / max(picture.mask.shape) / STRIDE) ** 2
        _, _, facts, _ = cv2.connectedComponentsWithStats((picture.mask > 0).astype(np.uint8), connectivity=8)
        areas += [float(area) * cells for area in facts[1:, cv2.CC_STAT_AREA]]
    return max(1, int(np.quantile(areas, SMALL_SHARE) / 2))


def _two_sizes() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((1, 1, 224, 224), (2, 1, 96, 160))]


def export_segmenter(model: nn.Module, path: Path) -> float:
    """Writes a segmenter as ONNX: input ``image``, output ``maps``; batch, height and width free.

    Returns:
        The largest difference between the graph's and torch's outputs.

    Raises:
        ParityGateError: It is above the tolerance.
    """
    example, wide = _two_sizes()
    axes = {
        INPUT: {0: "batch", 2: "height", 3: "width"},
        OUTPUT: {0: "batch", 2: "height_4", 3: "width_4"},
    }
    return export_onnx(
        model, path, example=example, input_name=INPUT, output_names=[OUTPUT], dynamic_axes=axes, check=(wide,)
    )
