"""Training of the surface detector, on one page."""

from __future__ import annotations

import json
import logging
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lineside_converters.export import export_onnx
from lineside_converters.training import checkpoint
from lineside_converters.training.batches import Batch, Mixer
from lineside_converters.training.calibrate import calibrate, choose_thresholds
from lineside_converters.training.config import TrainConfig, TrainProgress, TrainResult
from lineside_converters.training.facts import ARCHITECTURE, INPUT, OUTPUTS, PREPROCESS, postprocess
from lineside_converters.training.heldout import find_all, judge, map50
from lineside_converters.training.loss import detection_loss
from lineside_converters.training.samples import Domain, load_domain
from lineside_models.labels import LABELS
from lineside_models.networks import build
from lineside_models.networks.detector import SurfaceDetector, pretrained_detector
from lineside_runtime.errors import TrainingError
from lineside_runtime.files import write_atomic

EMA_DECAY = 0.998
TRUNK_RATE = 0.4
WEIGHT_DECAY = 0.05
WARM_UP_STEPS = 200
GRADIENT_NORM = 10.0
FINAL_RATE = 0.01  # of the peak
MOSAICS_UNTIL = 0.8  # of the run; the last fifth sees images as they are
_NORM_BATCHES = 12
_Tensors = list[Tensor] | tuple[Tensor, ...]

_log = logging.getLogger("lineside.training")


@dataclass(slots=True)
class _Run:
    """What changes while training; what a checkpoint holds."""

    model: SurfaceDetector
    ema: AveragedModel
    optimizer: torch.optim.AdamW
    step: int = 0
    elapsed_s: float = 0.0
    best: float = -1.0
    curve: list[dict[str, float]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "best": self.best,
            "curve": self.curve,
            "starts": self.starts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        peaks = [group["peak"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, peak in zip(self.optimizer.param_groups, peaks, strict=True):
            group["peak"] = peak  # the rate is this run's, also where it was resumed because the old one ran away
        self.step, self.elapsed_s, self.best = state["step"], state["elapsed_s"], state["best"]
        self.curve, self.starts = state["curve"], state["starts"]


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
    run = _start(config, mixer)
    _fit(config, run, mixer, domains, on_progress)
    return _finish(config, run, domains)


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


def _start(config: TrainConfig, mixer: Mixer) -> _Run:
    resumed = checkpoint.load(config.out / "checkpoint.pt") if config.resume else None
    if resumed is None:
        model = pretrained_detector(len(LABELS))
        _see_new_images(model, mixer)
        model.trunk.freeze_early()
    else:
        model = _new_detector()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    ema = AveragedModel(model, multi_avg_fn=_average, use_buffers=True)
    run = _Run(model, ema, torch.optim.AdamW(_groups(model, config.learning_rate), weight_decay=WEIGHT_DECAY))
    if resumed is not None:
        run.restore(resumed)
        _log.info("resumed at step %d, after %.0f s of training", run.step, run.elapsed_s)
    return run


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


def _average(averaged: _Tensors, current: _Tensors, count: Tensor | int) -> None:
    """Moves the averages; slower at first, else the random start would weigh on them for a thousand steps."""
    decay = EMA_DECAY * (1 - math.exp(-int(count) / 400))
    for old, new in zip(averaged, current, strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


def _groups(model: SurfaceDetector, rate: float) -> list[dict[str, Any]]:
    """Returns four parameter groups: the trunk learns slower; norms and biases do not decay."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("trunk."), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "peak": rate * (TRUNK_RATE if trunk else 1.0), "weight_decay": WEIGHT_DECAY * decays}
        for (trunk, decays), params in groups.items()
    ]


def rate_factor(step: int, done: float) -> float:
    """Returns the share of the peak learning rate: a linear start, then a cosine.

    Args:
        step: From 0.
        done: Share of the run that is over, 0 to 1.
    """
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _fit(
    config: TrainConfig,
    run: _Run,
    mixer: Mixer,
    domains: tuple[Domain, ...],
    on_progress: Callable[[TrainProgress], None],
) -> None:
    epoch_steps = steps_per_epoch(mixer.counts, domains)
    steps = epoch_steps * config.epochs
    clock = _Clock(config, run, steps)
    batches = mixer.stream(run.step, mosaics_at=lambda step: clock.done(step) < MOSAICS_UNTIL)
    if clock.done() < 1:
        run.starts.append({"step": run.step, **config.as_dict()})
    while clock.done() < 1:
        loss = _step(run, next(batches), clock.done())
        run.step += 1
        run.elapsed_s = clock.elapsed_s()
        held: dict[str, float] = {}
        if run.step % epoch_steps == 0 or clock.done() >= 1:
            held = _end_epoch(config, run, domains, run.step // epoch_steps, last=clock.done() >= 1)
        remaining = run.elapsed_s / max(clock.done(), 1e-6) * (1 - clock.done())
        on_progress(
            TrainProgress(
                epoch=(run.step - 1) // epoch_steps,
                step=run.step - 1,
                steps=steps,
                loss=loss,
                elapsed_s=run.elapsed_s,
                remaining_s=max(0.0, remaining),
                held_map50=held,
            )
        )
    batches.close()


class _Clock:
    """How much of a run is over: the larger of its share of the steps and of the minutes."""

    def __init__(self, config: TrainConfig, run: _Run, steps: int) -> None:
        self._run = run
        self._steps = steps
        self._budget_s = None if config.minutes is None else 60 * config.minutes
        self._began = time.monotonic() - run.elapsed_s

    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def done(self, step: int | None = None) -> float:
        by_steps = (self._run.step if step is None else step) / self._steps
        return by_steps if self._budget_s is None else max(by_steps, self.elapsed_s() / self._budget_s)


def _step(run: _Run, batch: Batch, done: float) -> float:
    for group in run.optimizer.param_groups:
        group["lr"] = group["peak"] * rate_factor(run.step, done)
    run.model.train()
    loss = detection_loss(run.model(batch.images), true_boxes=batch.boxes, true_labels=batch.labels).total
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss of step {run.step} is {value}",
            action="Resume with a smaller learning rate; the checkpoint is whole.",
        )
    run.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(run.model.parameters(), GRADIENT_NORM)
    run.optimizer.step()
    run.ema.update_parameters(run.model)
    return value


def _end_epoch(
    config: TrainConfig, run: _Run, domains: tuple[Domain, ...], epoch: int, *, last: bool
) -> dict[str, float]:
    held: dict[str, float] = {}
    if last or epoch % config.evaluate_every == 0:
        held = {domain.name: map50(domain.held, find_all(run.ema.module, domain.held)) for domain in domains}
        run.curve.append({"step": run.step, "elapsed_s": round(run.elapsed_s, 1)} | held)
        score = float(np.mean(list(held.values())))
        if score > run.best:
            run.best = score
            checkpoint.save(config.out / "best.pt", _plain(run.ema.module))
    checkpoint.save(config.out / "checkpoint.pt", run.state())
    return held


def _plain(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}


def _finish(config: TrainConfig, run: _Run, domains: tuple[Domain, ...]) -> TrainResult:
    model = _new_detector()
    model.load_state_dict(checkpoint.load(config.out / "best.pt"))
    found = [find_all(model, domain.held) for domain in domains]
    held: dict[str, float] = {d.name: map50(d.held, each) for d, each in zip(domains, found, strict=True)}
    finds = judge([p for domain in domains for p in domain.held], [each for part in found for each in part])
    maps = calibrate(finds)
    thresholds = choose_thresholds(finds, maps)
    difference = export_detector(model, config.out / "float.onnx")
    result = TrainResult(
        weights=config.out / "best.pt",
        onnx=config.out / "float.onnx",
        facts=config.out / "training.json",
        held_map50=held,
        calibration=maps,
        thresholds=thresholds,
    )
    _write_facts(config, run, domains, result, difference)
    return result


def export_detector(model: SurfaceDetector, path: Path) -> float:
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
    generator = torch.Generator().manual_seed(0)
    example, wide = (torch.randn(shape, generator=generator) for shape in ((1, 1, 224, 224), (2, 1, 96, 160)))
    return export_onnx(
        model, path, example=example, input_name=INPUT, output_names=OUTPUTS, dynamic_axes=axes, check=(wide,)
    )


def _write_facts(
    config: TrainConfig, run: _Run, domains: tuple[Domain, ...], result: TrainResult, difference: float
) -> None:
    facts = {
        "architecture": ARCHITECTURE,
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
