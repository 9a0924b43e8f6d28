"""Training of a detector, on one page."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.pruning.torch_graph import PrunableNetwork, close_network
from lineside_converters.training import checkpoints
from lineside_converters.training.bundle_facts import ARCHITECTURE, INPUT, OUTPUTS, postprocess
from lineside_converters.training.config import TrainConfig, TrainProgress, TrainResult, channels_of
from lineside_converters.training.data.augmentation import TrainingPicture
from lineside_converters.training.data.batches import Mixer, TrainingBatch
from lineside_converters.training.detection.data import (
    DetectionData,
    canvases_per_domain,
    load_detection_data,
    steps_per_epoch,
)
from lineside_converters.training.initial_weights import PRIOR_BIAS, check_outputs, open_start, take_labels
from lineside_converters.training.int8.qat import fine_tune_int8
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
from lineside_converters.training.objectives import DetectionObjective
from lineside_converters.training.pretrained_trunk import NORM_BATCHES, rate_of, see_new_images
from lineside_converters.training.run_folder import begin_run
from lineside_converters.training.strategy import ALONE, Strategy
from lineside_models.networks import build
from lineside_models.networks.detector import STRIDES, SurfaceDetector, pretrained_detector
from lineside_runtime.errors import TrainingError
from lineside_runtime.files import write_atomic

log = logging.getLogger("lineside.training")


def train(config: TrainConfig, on_progress: Callable[[TrainProgress], None]) -> TrainResult:
    """Trains the detector on the train folds, chooses the best weights and calibrates their scores.

    Writes ``config.toml``, ``checkpoint.pt`` (each epoch), ``curves.html`` and ``best.pt`` (each evaluation),
    ``float.onnx`` and ``training.json`` into ``config.out``.

    Args:
        config: The run's settings.
        on_progress: Called after every step, in this thread.

    Raises:
        TrainingError: The settings or the checkpoint are not usable, or the loss is no number any more.
        DatasetError: A data folder is not usable.
    """
    return learn(config, on_progress, ALONE)()


def learn(
    config: TrainConfig, on_progress: Callable[[TrainProgress], None], strategy: Strategy
) -> Callable[[], TrainResult]:
    """Does what all workers do of `train`, and returns the rest, which only the first one calls."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    data = load_detection_data(config)
    begin_run(config)
    counts = canvases_per_domain(config, data.domains)
    mixer = Mixer(data.domains, counts, config=config, part=strategy.part)
    objective = DetectionObjective(data, mixer, epoch_steps=steps_per_epoch(mixer.counts, data.domains))
    first = config.first_model
    network = None if first is None else _given(first, mixer, data)
    run = _start(config, mixer, data, network, strategy)
    plan = TrainingPlan(
        out=config.out,
        epochs=config.epochs,
        epoch_steps=objective.epoch_steps,
        minutes=config.minutes,
        evaluate_every=config.evaluate_every,
        warm_up_steps=min(WARM_UP_STEPS, config.epochs * objective.epoch_steps // 10),
        judge_start=network is not None,
        figure="mAP@0.5",
        settings=config.as_dict() | {"start": None if first is None else first.name},
    )

    def loss(model: nn.Module, batch: TrainingBatch) -> Tensor:
        return objective.true_loss(model(batch.images), batch)

    fit(
        run,
        plan,
        batches=objective.batches,
        loss=loss,
        evaluate=objective.evaluate,
        on_progress=on_progress,
        strategy=strategy,
    )
    return lambda: _finish(config, run, data, objective, network, on_progress)


def _given(model: Path, mixer: Mixer, data: DetectionData) -> PrunableNetwork:
    """Opens what the run begins with, proved on some canvases of the data to come."""
    frames = [mixer.batch(step, mosaics=False).images for step in range(NORM_BATCHES)]
    found = open_start(model, frames)
    check_outputs(found, OUTPUTS, "a surface detector of lineside, such as surface-12")
    kept = take_labels(found, data.labels, heads=len(STRIDES), bias=PRIOR_BIAS)
    log.info("starting from %s: %s", found.name, kept)
    return found.network


def _start(
    config: TrainConfig, mixer: Mixer, data: DetectionData, network: PrunableNetwork | None, strategy: Strategy
) -> TrainingRun:
    resumed = checkpoints.load(config.out / CHECKPOINT) if config.resume else None
    if network is not None:
        groups = parameter_groups(network.module, lambda _: config.learning_rate)
        return start(network.module, groups, resumed=resumed, strategy=strategy)
    if resumed is None:
        log.info("starting from an EfficientNet-Lite0 with ImageNet's weights")
        model = pretrained_detector(len(data.labels), channels=channels_of(config.architecture or ""))
        see_new_images(model.trunk, (mixer.batch(step, mosaics=False).images for step in range(NORM_BATCHES)))
        model.trunk.freeze_early()
    else:
        model = _new_detector(config, data)
    return start(model, parameter_groups(model, rate_of(config.learning_rate)), resumed=resumed, strategy=strategy)


def _new_detector(config: TrainConfig, data: DetectionData) -> SurfaceDetector:
    model = build(ARCHITECTURE, num_classes=len(data.labels), channels=channels_of(config.architecture or ""))
    if not isinstance(model, SurfaceDetector):
        raise TrainingError(f"{ARCHITECTURE} is no surface detector", actual=type(model).__name__)
    return model


def _finish(
    config: TrainConfig,
    run: TrainingRun,
    data: DetectionData,
    objective: DetectionObjective,
    network: PrunableNetwork | None,
    on_progress: Callable[[TrainProgress], None],
) -> TrainResult:
    model: nn.Module = _new_detector(config, data) if network is None else network.module
    model.load_state_dict(checkpoints.load(config.out / BEST))
    onnx = config.out / "float.onnx"
    difference = export_detector(model, onnx) if network is None else close_network(network, onnx, _two_sizes())
    taught = None
    if config.qat:
        taught = fine_tune_int8(config, data, objective, onnx, export=export_detector, on_progress=on_progress)
        if taught.model is not None:
            model, difference = taught.model, export_detector(taught.model, onnx)
    held = objective.evaluate(model)
    maps, thresholds = objective.fitted(model)
    result = TrainResult(
        weights=config.out / BEST,
        onnx=onnx,
        facts=config.out / "training.json",
        held_map50=held,
        qat=None if taught is None else taught.as_dict(),
        calibration=maps,
        thresholds=thresholds,
    )
    _write_facts(config, run, data, result, difference)
    return result


def export_detector(model: nn.Module, path: Path) -> float:
    """Writes the detector as ONNX: input ``image``, the six maps as outputs, batch, height and width free.

    Returns:
        The largest difference between the graph's and torch's outputs.

    Raises:
        ParityGateError: It is above the tolerance.
    """
    free = {0: "batch", 2: "height", 3: "width"}
    axes: dict[str, dict[int, str]] = {INPUT: free}
    for name in OUTPUTS:
        stride = name.split("_")[1]
        axes[name] = {0: "batch", 2: f"height_{stride}", 3: f"width_{stride}"}
    example, wide = _two_sizes()
    return export_onnx(
        model, path, example=example, input_name=INPUT, output_names=OUTPUTS, dynamic_axes=axes, check=(wide,)
    )


def _two_sizes() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((1, 1, 224, 224), (2, 1, 96, 160))]


def _write_facts(
    config: TrainConfig, run: TrainingRun, data: DetectionData, result: TrainResult, difference: float
) -> None:
    first = config.first_model
    facts = {
        "architecture": ARCHITECTURE if first is None else f"that of {first.name}",
        "channels": channels_of(config.architecture or "") if first is None else None,
        "labels": list(data.labels),
        "starts": run.starts,
        "images": {
            d.name: {
                "train": len(d.train),
                "clean": len(d.clean),
                "held": len(d.held),
                "framing": d.framing.kind,
                "boxes": _boxes_of(d.train, data.labels),
            }
            for d in data.domains
        },
        "steps": run.step,
        "elapsed_s": round(run.elapsed_s, 1),
        "curve": run.curve,
        "losses": run.losses,
        "held_map50": result.held_map50,
        "qat": result.qat,
        "preprocess": msgspec.to_builtins(data.preprocess),
        "postprocess": msgspec.to_builtins(postprocess(result.calibration, result.thresholds)),
        "calibration": [list(pair) for pair in result.calibration],
        "thresholds": list(result.thresholds),
        "onnx_max_difference": difference,
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "onnx", "numpy")},
        "python": platform.python_version(),
    }
    write_atomic(result.facts, json.dumps(facts, indent=2).encode())


def _boxes_of(pictures: Sequence[TrainingPicture], labels: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(np.concatenate([picture.labels for picture in pictures]), minlength=len(labels))
    return {label: int(count) for label, count in zip(labels, counts, strict=True) if count}
