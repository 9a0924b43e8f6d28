"""The loop that every training here runs: schedule, averages, checkpoints, evaluation, progress.

- A step's batch and learning rate follow from the seed and the step's number alone, so that a run that was killed goes
  on from its last checkpoint as if it had not been.
- What is evaluated and kept is the moving average of the weights, never the weights themselves.
- A loss that is no number ends the run; the checkpoint before it is whole.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lineside_converters.training import checkpoints
from lineside_converters.training.config import TrainProgress
from lineside_converters.training.curves import write_curves
from lineside_converters.training.memory_pages import kept_pages
from lineside_converters.training.strategy import ALONE, Strategy
from lineside_runtime.errors import TrainingError

EMA_DECAY = 0.998
EMA_WARM_STEPS = 400
WEIGHT_DECAY = 0.05
WARM_UP_STEPS = 200
GRADIENT_NORM = 10.0
WARM_UP_SHARE = 0.1  # of the run, at most: a run that a time budget cuts short must not end while the rate still rises
FINAL_RATE = 0.01  # of the peak
FEW_PASSES = 5
"""A schedule of fewer passes over the data has hardly begun to learn."""
FORETOLD_AFTER_STEPS = 20

CHECKPOINT, BEST = "checkpoint.pt", "best.pt"

B = TypeVar("B")
_Tensors = list[Tensor] | tuple[Tensor, ...]

_log = logging.getLogger("lineside.training")


@dataclass(slots=True)
class TrainingRun:
    """What changes while training; what a checkpoint holds.

    Attributes:
        model: The network.
        ema: Its moving average.
        optimizer: With the learning rates.
        step: Steps so far.
        elapsed_s: Training time so far.
        best: Mean of the figures of the best evaluation.
        curve: A row an evaluation: ``step``, ``elapsed_s`` and the figures by name.
        losses: A row an epoch: ``step``, ``loss``, the mean of its steps, and ``learning_rate``, its last.
        starts: The settings of each start.
    """

    model: nn.Module
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    elapsed_s: float = 0.0
    best: float = -math.inf
    curve: list[dict[str, float]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Returns all of it as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "best": self.best,
            "curve": self.curve,
            "losses": self.losses,
            "starts": self.starts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `state` gave; the learning rates stay this run's."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        peaks = [group["peak"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, peak in zip(self.optimizer.param_groups, peaks, strict=True):
            group["peak"] = peak  # the rate is this run's, also where it was resumed because the old one ran away
        self.step, self.elapsed_s, self.best = state["step"], state["elapsed_s"], state["best"]
        self.curve, self.starts = state["curve"], state["starts"]
        self.losses = state.get("losses", [])  # checkpoints of before had none


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How long a run lasts and where it is kept.

    Attributes:
        out: Folder of ``checkpoint.pt``, ``best.pt`` and ``curves.html``, which is drawn anew at each epoch.
        epochs: Passes over the data.
        epoch_steps: Steps of one pass.
        minutes: Wall time after which the schedule ends early but whole.
        evaluate_every: Epochs between evaluations.
        warm_up_steps: Steps in which the learning rate rises.
        judge_start: Whether the network is evaluated before its first step too, so that a run that goes on from a model
            never ends with one that is worse.
        figure: What the evaluation measures, in words.
        settings: What a start of this run is told, for the record.
    """

    out: Path
    epochs: int
    epoch_steps: int
    minutes: float | None = None
    evaluate_every: int = 1
    warm_up_steps: int = WARM_UP_STEPS
    judge_start: bool = False
    figure: str = "figures"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps of the whole run, if no time budget cuts it."""
        return self.epochs * self.epoch_steps


def start(
    model: nn.Module,
    groups: list[dict[str, Any]],
    *,
    resumed: dict[str, Any] | None = None,
    strategy: Strategy = ALONE,
) -> TrainingRun:
    """Returns a run at its beginning, or where a checkpoint left it.

    Args:
        model: The network that is trained.
        groups: Of its parameters, each with its ``peak`` learning rate.
        resumed: A checkpoint's content.
        strategy: Who trains.

    Raises:
        TrainingError: The checkpoint is of another network.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    ema = AveragedModel(model, multi_avg_fn=_average, use_buffers=True)
    run = TrainingRun(model, ema, strategy.prepare(model, ema, groups))
    if resumed is not None:
        _restore(run, resumed, strategy)
        _log.info("resumed at step %d, after %.0f s of training", run.step, run.elapsed_s)
    return run


def _restore(run: TrainingRun, resumed: dict[str, Any], strategy: Strategy) -> None:
    try:
        strategy.restore(run, resumed)
    except (RuntimeError, KeyError, ValueError) as error:
        raise TrainingError(
            f"{CHECKPOINT} is of another network",
            expected="the run's own data and settings of the network",
            actual=(str(error).strip().splitlines() or [type(error).__name__])[0],
            action="Resume with the settings that it was begun with, or begin another run.",
        ) from error


def parameter_groups(model: nn.Module, rate_of: Callable[[str], float]) -> list[dict[str, Any]]:
    """Returns the parameters by learning rate; norms and biases do not decay.

    Args:
        model: The network; parameters without gradient are left out.
        rate_of: The peak learning rate of a parameter's name.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((rate_of(name), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "peak": rate, "weight_decay": WEIGHT_DECAY * decays}
        for (rate, decays), params in groups.items()
    ]


def _average(averaged: _Tensors, current: _Tensors, count: Tensor | int) -> None:
    """Moves the averages; slower at first, else the random start would weigh on them for a thousand steps."""
    decay = EMA_DECAY * (1 - math.exp(-int(count) / EMA_WARM_STEPS))
    for old, new in zip(averaged, current, strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


def rate_factor(step: int, done: float, *, warm_up_steps: int = WARM_UP_STEPS) -> float:
    """Returns the share of the peak learning rate: a linear start, then a cosine.

    Args:
        step: From 0.
        done: Share of the run that is over, 0 to 1.
        warm_up_steps: Steps of the linear start, which ends after a tenth of the run at the latest.
    """
    warm = min(1.0, max((step + 1) / max(1, warm_up_steps), done / WARM_UP_SHARE))
    return warm * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def fit(
    run: TrainingRun,
    plan: TrainingPlan,
    *,
    batches: Callable[[int, Callable[[int], float]], Generator[B, None, None]],
    loss: Callable[[nn.Module, B], Tensor],
    evaluate: Callable[[nn.Module], dict[str, float]],
    on_progress: Callable[[TrainProgress], None],
    strategy: Strategy = ALONE,
) -> None:
    """Trains to the end of the plan, and leaves the best averaged weights in ``best.pt``.

    Args:
        run: Begun or resumed.
        plan: How long.
        batches: Given a step and a function that says how much of the run is over at a step, the batches from there on.
        loss: Of the network on a batch.
        evaluate: Figures of the averaged network; the mean of them is what "best" means.
        on_progress: Called after every step, in this thread.
        strategy: Who trains.

    Raises:
        TrainingError: The loss is no number any more.
    """
    clock = _Clock(run, plan, strategy)
    with kept_pages(), contextlib.closing(batches(run.step, clock.done)) as stream:
        _run_steps(run, plan, clock, stream, loss, evaluate, on_progress, strategy)


def _run_steps(
    run: TrainingRun,
    plan: TrainingPlan,
    clock: _Clock,
    stream: Generator[B, None, None],
    loss: Callable[[nn.Module, B], Tensor],
    evaluate: Callable[[nn.Module], dict[str, float]],
    on_progress: Callable[[TrainProgress], None],
    strategy: Strategy,
) -> None:
    began_at = run.step
    if plan.judge_start and run.step == 0:
        found = _judge(run, plan, evaluate, strategy)
        _log.info("before the first step: %s", ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    if clock.done() < 1:
        run.starts.append({"step": run.step, **plan.settings})
    epoch_losses: list[float] = []
    while (done := clock.agreed()) < 1:
        value = _step(run, plan, loss, next(stream), done, strategy)
        epoch_losses.append(value)
        run.step += 1
        run.elapsed_s = clock.elapsed_s()
        held: dict[str, float] = {}
        over = clock.agreed() >= 1
        if strategy.rank == 0 and (over or run.step - began_at == FORETOLD_AFTER_STEPS):
            _warn_of_few_passes(run, plan, clock.done(), over=over)
        if run.step % plan.epoch_steps == 0 or over:
            mean = strategy.mean(float(np.mean(epoch_losses)))
            run.losses.append({"step": run.step, "loss": mean, "learning_rate": _rate(run)})
            epoch_losses = []
            held = _end_epoch(run, plan, evaluate, strategy, over=over, share=min(1.0, clock.done()))
        remaining = run.elapsed_s / max(clock.done(), 1e-6) * (1 - clock.done())
        on_progress(
            TrainProgress(
                epoch=(run.step - 1) // plan.epoch_steps,
                step=run.step - 1,
                steps=plan.steps,
                loss=value,
                learning_rate=_rate(run),
                elapsed_s=run.elapsed_s,
                remaining_s=max(0.0, remaining),
                held=held,
            )
        )
    if run.best == -math.inf:  # resumed when its time was spent, and never evaluated before
        _judge(run, plan, evaluate, strategy)


def _warn_of_few_passes(run: TrainingRun, plan: TrainingPlan, done: float, *, over: bool) -> None:
    """Warns where the time budget ends the schedule after a few passes over the data, as soon as that can be told."""
    passes = run.step / plan.epoch_steps / min(1.0, max(done, 1e-6))
    if plan.minutes is not None and passes < min(FEW_PASSES, plan.epochs) - 0.5:
        _log.warning(
            "%g minutes %s for %.1f passes over the data, of %d: give more minutes, or a smaller network or input",
            plan.minutes,
            "were enough" if over else "will be enough",
            passes,
            plan.epochs,
        )


def _rate(run: TrainingRun) -> float:
    return float(max(group["lr"] for group in run.optimizer.param_groups))


class _Clock:
    """How much of a run is over: the larger of its share of the steps and of the minutes."""

    def __init__(self, run: TrainingRun, plan: TrainingPlan, strategy: Strategy) -> None:
        self._run, self._strategy = run, strategy
        self._steps = plan.steps
        self._budget_s = None if plan.minutes is None else 60 * plan.minutes
        self._began = time.monotonic() - run.elapsed_s

    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def done(self, step: int | None = None) -> float:
        by_steps = (self._run.step if step is None else step) / self._steps
        return by_steps if self._budget_s is None else max(by_steps, self.elapsed_s() / self._budget_s)

    def agreed(self) -> float:
        """Returns it for now, the same on all workers, whose clocks differ."""
        return self.done() if self._budget_s is None else self._strategy.agree(self.done())


def _step(
    run: TrainingRun,
    plan: TrainingPlan,
    loss: Callable[[nn.Module, B], Tensor],
    batch: B,
    done: float,
    strategy: Strategy,
) -> float:
    for group in run.optimizer.param_groups:
        group["lr"] = group["peak"] * rate_factor(run.step, done, warm_up_steps=plan.warm_up_steps)
    run.model.train()
    total = strategy.forward(run, loss, batch)
    value = float(total.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss of step {run.step} is {value}",
            action="Resume with a smaller learning rate; the checkpoint is whole.",
        )
    run.optimizer.zero_grad(set_to_none=True)
    strategy.backward(run, total)
    nn.utils.clip_grad_norm_(run.model.parameters(), GRADIENT_NORM)
    run.optimizer.step()
    run.ema.update_parameters(run.model)
    strategy.step_ended(run)
    return value


def _end_epoch(
    run: TrainingRun,
    plan: TrainingPlan,
    evaluate: Callable[[nn.Module], dict[str, float]],
    strategy: Strategy,
    *,
    over: bool,
    share: float,
) -> dict[str, float]:
    held: dict[str, float] = {}
    if over or run.step // plan.epoch_steps % plan.evaluate_every == 0:
        held = _judge(run, plan, evaluate, strategy)
    _save(plan.out / CHECKPOINT, strategy.state(run), strategy)
    if strategy.rank == 0:
        write_curves(plan.out, run.curve, run.losses, figure=plan.figure, steps=round(run.step / share))
    strategy.saved(run, plan.out, held)
    return held


def _judge(
    run: TrainingRun, plan: TrainingPlan, evaluate: Callable[[nn.Module], dict[str, float]], strategy: Strategy
) -> dict[str, float]:
    """Returns the figures of the averaged network, and keeps it where it is the best so far."""
    held = strategy.evaluate(run, evaluate)
    run.curve.append({"step": run.step, "elapsed_s": round(run.elapsed_s, 1)} | held)
    score = float(np.mean(list(held.values())))
    if score > run.best:
        run.best = score
        _save(plan.out / BEST, strategy.best(run), strategy)
    return held


def _save(path: Path, state: dict[str, Any], strategy: Strategy) -> None:
    if strategy.rank == 0:
        checkpoints.save(path, state)
