"""Training of the surface detector, on one page."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from lineside_converters.compress.prune.network import Network, close_network
from lineside_converters.export import export_onnx
from lineside_converters.training import checkpoint
from lineside_converters.training.batches import Batch, Mixer
from lineside_converters.training.calibrate import calibrate, choose_thresholds
from lineside_converters.training.config import TrainConfig, TrainProgress, TrainResult
from lineside_converters.training.facts import ARCHITECTURE, INPUT, OUTPUTS, PREPROCESS, postprocess
from lineside_converters.training.heldout import find_all, judge, map50
from lineside_converters.training.lessons import DetectorLessons
from lineside_converters.training.loop import BEST, CHECKPOINT, Plan, Run, fit, parameter_groups, start
from lineside_converters.training.samples import Domain, load_domain
from lineside_converters.training.starting import check_outputs, open_start
from lineside_models.labels import LABELS
from lineside_models.networks import build
from lineside_models.networks.detector import SurfaceDetector, pretrained_detector
from lineside_runtime.errors import TrainingError
from lineside_runtime.files import write_atomic

TRUNK_RATE = 0.4
_NORM_BATCHES = 12


def train(config: TrainConfig, on_progress: Callable[[TrainProgress], None]) -> TrainResult:
    """Trains the detector on the train folds, chooses the best weights and calibrates their scores.

    Writes ``checkpoint.pt`` (each epoch), ``best.pt``, ``float.onnx`` and ``training.json`` into ``config.out``.

    Args:
        config: The run's settings.
        on_progress: Called after every step, in this thread.

    Raises:
        TrainingError: The settings or the checkpoint are not usable, or the loss is no number any more.
        DatasetError: A data folder is not usable.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    domains = tuple(
        load_domain(folder, held_share=config.held_share, simulate=config.simulated_share > 0) for folder in config.data
    )
    mixer = Mixer(domains, canvases_per_domain(config, domains), config=config)
    lessons = DetectorLessons(domains, mixer, epoch_steps=steps_per_epoch(mixer.counts, domains))
    network = None if config.start is None else _given(config.start, mixer)
    run = _start(config, mixer, network)
    plan = Plan(
        out=config.out,
        epochs=config.epochs,
        epoch_steps=lessons.epoch_steps,
        minutes=config.minutes,
        evaluate_every=config.evaluate_every,
        settings=config.as_dict(),
    )

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return lessons.true_loss(model(batch.images), batch)

    fit(run, plan, batches=lessons.batches, loss=loss, evaluate=lessons.evaluate, on_progress=on_progress)
    return _finish(config, run, domains, network)


def canvases_per_domain(config: TrainConfig, domains: tuple[Domain, ...]) -> tuple[int, ...]:
    """Returns how many canvases of each domain a batch holds; each domain has at least one.

    Raises:
        TrainingError: Two data folders are of one domain.
    """
    names = [domain.name for domain in domains]
    if len(set(names)) != len(names):
        raise TrainingError("two data folders are of one domain", expected="one of each", actual=names)
    if len(domains) == 1:
        return (config.batch,)
    pcb = min(max(1, round(config.batch * config.pcb_share)), config.batch - 1)
    return tuple(pcb if name == "pcb" else config.batch - pcb for name in names)


def steps_per_epoch(counts: tuple[int, ...], domains: tuple[Domain, ...]) -> int:
    """Returns after how many steps the largest data set has been seen once."""
    size, count = max((len(domain.train), count) for domain, count in zip(domains, counts, strict=True))
    return math.ceil(size / count)


def _given(model: Path, mixer: Mixer) -> Network:
    """Opens what the run begins with, proved on some canvases of the data to come."""
    network = open_start(model, [mixer.batch(step, mosaics=False).images for step in range(_NORM_BATCHES)])
    check_outputs(network, OUTPUTS, model)
    return network


def _start(config: TrainConfig, mixer: Mixer, network: Network | None) -> Run:
    resumed = checkpoint.load(config.out / CHECKPOINT) if config.resume else None
    if network is not None:
        groups = parameter_groups(network.module, lambda _: config.learning_rate)
        return start(network.module, groups, resumed=resumed)
    if resumed is None:
        model = pretrained_detector(len(LABELS))
        _see_new_images(model, mixer)
        model.trunk.freeze_early()
    else:
        model = _new_detector()

    def rate_of(name: str) -> float:
        return config.learning_rate * (TRUNK_RATE if name.startswith("trunk.") else 1.0)

    return start(model, parameter_groups(model, rate_of), resumed=resumed)


def _new_detector() -> SurfaceDetector:
    model = build(ARCHITECTURE, num_classes=len(LABELS))
    if not isinstance(model, SurfaceDetector):
        raise TrainingError(f"{ARCHITECTURE} is no surface detector", actual=type(model).__name__)
    return model


@torch.no_grad()
def _see_new_images(model: SurfaceDetector, mixer: Mixer) -> None:
    """Estimates the trunk's batch norms again on the images to come: grey surfaces are no photos."""
    norms = [m for m in model.trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches below
    model.train()
    for step in range(_NORM_BATCHES):
        model.trunk(mixer.batch(step, mosaics=False).images)
    for norm in norms:
        norm.momentum = 0.1


def _finish(config: TrainConfig, run: Run, domains: tuple[Domain, ...], network: Network | None) -> TrainResult:
    model = _new_detector() if network is None else network.module
    model.load_state_dict(checkpoint.load(config.out / BEST))
    found = [find_all(model, domain.held) for domain in domains]
    held: dict[str, float] = {d.name: map50(d.held, each) for d, each in zip(domains, found, strict=True)}
    finds = judge([p for domain in domains for p in domain.held], [each for part in found for each in part])
    maps = calibrate(finds)
    thresholds = choose_thresholds(finds, maps)
    onnx = config.out / "float.onnx"
    difference = export_detector(model, onnx) if network is None else close_network(network, onnx, _two_sizes())
    result = TrainResult(
        weights=config.out / BEST,
        onnx=config.out / "float.onnx",
        facts=config.out / "training.json",
        held_map50=held,
        calibration=maps,
        thresholds=thresholds,
    )
    _write_facts(config, run, domains, result, difference)
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
    config: TrainConfig, run: Run, domains: tuple[Domain, ...], result: TrainResult, difference: float
) -> None:
    facts = {
        "architecture": ARCHITECTURE if config.start is None else f"that of {config.start.name}",
        "labels": list(LABELS),
        "starts": run.starts,
        "images": {d.name: {"train": len(d.train), "clean": len(d.clean), "held": len(d.held)} for d in domains},
        "steps": run.step,
        "elapsed_s": round(run.elapsed_s, 1),
        "curve": run.curve,
        "held_map50": result.held_map50,
        "preprocess": msgspec.to_builtins(PREPROCESS),
        "postprocess": msgspec.to_builtins(postprocess(result.calibration, result.thresholds)),
        "calibration": [list(pair) for pair in result.calibration],
        "thresholds": list(result.thresholds),
        "onnx_max_difference": difference,
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "onnx", "numpy")},
        "python": platform.python_version(),
    }
    write_atomic(result.facts, json.dumps(facts, indent=2).encode())
