"""Training loop of all networks: schedule, averages, checkpoints, evaluation, progress.

- The batch and the learning rate of a step follow from the seed and the step's number alone, so a run that was killed
  continues from its last checkpoint as if it had not been.
- The moving average of the weights is evaluated and kept, never the weights themselves.
- A loss that is not finite ends the run; the checkpoint before it is whole.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lineside_converters.training import checkpoints
from lineside_converters.training.checkpoints import TrainingRun
from lineside_converters.training.memory_pages import kept_pages
from lineside_converters.training.monitoring.curves import write_curves
from lineside_converters.training.progress import OnProgress, TrainingProgress
from lineside_converters.training.strategy import ALONE, Strategy
from lineside_runtime.errors import TrainingError

EMA_DECAY = 0.998
EMA_WARM_STEPS = 400
WEIGHT_DECAY = 0.05
WARM_UP_STEPS = 200
GRADIENT_NORM = 10.0
WARM_UP_SHARE = 0.1  # of the run, at most: a run with a time budget must not end while the rate still rises
FINAL_RATE = 0.01  # of the peak
FEW_PASSES = 5
"""Passes over the data below which a schedule is too short to train."""
PREDICTED_AFTER_STEPS = 20

CHECKPOINT, BEST = "checkpoint.pt", "best.pt"

_TIMES = ("step", "elapsed_s")  # of a row of the curve, beside its figures

B = TypeVar("B")
_Tensors = list[Tensor] | tuple[Tensor, ...]

_log = logging.getLogger("lineside.training")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Length of a run, and its folder.

    Attributes:
        out: Folder of ``checkpoint.pt``, ``best.pt`` and ``curves.html``, which is rewritten at each epoch.
        epochs: Passes over the data.
        minutes: Wall time after which the schedule ends early but whole.
        evaluate_every: Epochs between evaluations.
        warm_up_steps: Steps in which the learning rate rises.
        evaluate_start: Whether the network is evaluated before its first step too, so that a run that starts from a
            model never ends with a worse one.
        patience: Evaluations without a better one after which the run ends; ``None`` to end with the schedule.
        figure: Name of what the evaluation measures.
        settings: Settings of this start, for the record.
    """

    out: Path
    epochs: int
    epoch_steps: int
    minutes: float | None = None
    evaluate_every: int = 1
    warm_up_steps: int = WARM_UP_STEPS
    evaluate_start: bool = False
    patience: int | None = None
    figure: str = "figures"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps of the whole run, if no time budget ends it."""
        return self.epochs * self.epoch_steps


def start_run(
    model: nn.Module,
    groups: list[dict[str, Any]],
    *,
    resumed: dict[str, Any] | None = None,
    strategy: Strategy = ALONE,
) -> TrainingRun:
    """Returns a run at its beginning, or where a checkpoint left it.

    Args:
        model: The network that is trained.
        groups: Its parameters, each group with its ``peak`` learning rate.
        resumed: Content of a checkpoint.
        strategy: One process, or one of several workers.

    Raises:
        TrainingError: The checkpoint is of another network.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    ema = RunningAverage(model)
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
    """Returns the parameters by learning rate; norms and biases do not decay."""
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((rate_of(name), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "peak": rate, "weight_decay": WEIGHT_DECAY * decays}
        for (rate, decays), params in groups.items()
    ]


def average_decay(count: int) -> float:
    """Returns the decay of the average; less at first, or the initial weights would dominate it for long.

    Args:
        count: Steps before this one.
    """
    return EMA_DECAY * (1 - math.exp(-count / EMA_WARM_STEPS))


def average(averaged: _Tensors, current: _Tensors, count: Tensor | int) -> None:
    """Moves averages towards the current values, after ``count`` steps before this one."""
    decay = average_decay(int(count))
    for old, new in zip(averaged, current, strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


class RunningAverage(AveragedModel):
    """The average of a network's weights and buffers.

    It looks up their tensors once: to walk through all modules in every step took longer than to average.
    """

    def __init__(self, model: nn.Module) -> None:
        """Begins with the values of a network."""
        super().__init__(model, multi_avg_fn=average, use_buffers=True)
        self._tensors: tuple[list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Moves the average towards the network that it was begun with."""
        if self._tensors is None:
            self._tensors = _tensors_of(self.module), _tensors_of(model)
        average(*self._tensors, self.n_averaged)
        self.n_averaged += 1


def _tensors_of(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


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
    on_progress: OnProgress,
    strategy: Strategy = ALONE,
) -> None:
    """Trains to the end of the plan, and leaves the best averaged weights in ``best.pt``.

    Args:
        batches: Returns the batches from a step on, given that step and the share of the run that is over at a step.
        loss: Of the network on a batch.
        evaluate: Figures of the averaged network; the best evaluation is that with the highest mean of them.
        on_progress: Called after every step, in this thread.
        strategy: One process, or one of several workers.

    Raises:
        TrainingError: The loss is not finite.
    """
    loop = _Loop(run, plan, _Clock(run, plan, strategy), loss, evaluate, strategy)
    with kept_pages(), contextlib.closing(batches(run.step, loop.clock.done)) as stream:
        loop.run_steps(stream, on_progress)


class _Clock:
    """The share of a run that is over: the larger of its share of the steps and of the minutes."""

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
        """Returns `done` of now, the same on all workers, whose clocks differ."""
        return self.done() if self._budget_s is None else self._strategy.agree(self.done())


@dataclass(frozen=True, slots=True)
class _Loop(Generic[B]):
    run: TrainingRun
    plan: TrainingPlan
    clock: _Clock
    loss: Callable[[nn.Module, B], Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]
    strategy: Strategy

    def run_steps(self, batches: Iterator[B], on_progress: OnProgress) -> None:
        """Trains until the plan is over; an evaluation may change the network's mode, so it is set after each one."""
        run, plan, clock = self.run, self.plan, self.clock
        began_at = run.step
        if plan.evaluate_start and run.step == 0:
            figures = ", ".join(f"{name} {value:.3f}" for name, value in self.evaluate_average().items())
            _log.info("before the first step: %s", figures)
        if clock.done() < 1:
            run.starts.append({"step": run.step, **plan.settings})
        epoch_losses: list[float] = []
        run.model.train()
        done = clock.agreed()  # asked once a step: between two answers the time could end, and no step be the last
        while done < 1 and not self.is_exhausted():
            value = self.train_step(next(batches), done)
            epoch_losses.append(value)
            run.step += 1
            run.elapsed_s = clock.elapsed_s()
            held: dict[str, float] = {}
            done = clock.agreed()
            over = done >= 1
            if self.strategy.rank == 0 and (over or run.step - began_at == PREDICTED_AFTER_STEPS):
                _warn_of_few_passes(run, plan, done, over=over)
            if run.step % plan.epoch_steps == 0 or over:
                mean = self.strategy.mean(float(np.mean(epoch_losses)))
                run.losses.append({"step": run.step, "loss": mean, "learning_rate": _rate(run)})
                epoch_losses = []
                held = self.end_epoch(over=over, share=min(1.0, done))
                run.model.train()
            elif self.strategy.checkpoint_due(run):
                self.save_checkpoint(held)
            on_progress(self.progress(value, held))
        if run.best == -math.inf:  # resumed when its time was spent, and never evaluated before
            self.evaluate_average()

    def is_exhausted(self) -> bool:
        """Returns whether the last evaluations, as many as the plan's patience, brought nothing better."""
        patience = self.plan.patience
        if patience is None or len(self.run.curve) <= patience:
            return False
        scores = [mean_figure({k: v for k, v in row.items() if k not in _TIMES}) for row in self.run.curve]
        return max(scores[-patience:]) <= max(scores[:-patience])

    def train_step(self, batch: B, done: float) -> float:
        """Takes one step of the optimiser, and returns its loss; ``done`` is the share of the run that is over."""
        run, strategy = self.run, self.strategy
        for group in run.optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor(run.step, done, warm_up_steps=self.plan.warm_up_steps)
        total = strategy.forward(run, self.loss, batch)
        value = float(total.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss of step {run.step} is {value}",
                action="Resume with a smaller learning rate; the checkpoint is whole.",
            )
        run.optimizer.zero_grad(set_to_none=True)
        strategy.backward(run, total)
        strategy.clip(run, GRADIENT_NORM)
        run.optimizer.step()
        strategy.update_average(run)
        strategy.step_ended(run)
        return value

    def end_epoch(self, *, over: bool, share: float) -> dict[str, float]:
        """Writes the curves and a checkpoint; returns the figures, if this epoch is evaluated."""
        run, plan = self.run, self.plan
        held: dict[str, float] = {}
        if over or run.step // plan.epoch_steps % plan.evaluate_every == 0:
            held = self.evaluate_average()
        if self.strategy.rank == 0:
            write_curves(plan.out, run.curve, run.losses, figure=plan.figure, steps=round(run.step / share))
        self.save_checkpoint(held)
        return held

    def save_checkpoint(self, held: dict[str, float]) -> None:
        self.save(CHECKPOINT, self.strategy.state(self.run))
        self.strategy.saved(self.run, self.plan.out, held)

    def evaluate_average(self) -> dict[str, float]:
        """Returns the figures of the averaged network, and keeps it if it is the best so far."""
        run = self.run
        held = self.strategy.evaluate(run, self.evaluate)
        run.curve.append({"step": run.step, "elapsed_s": round(run.elapsed_s, 1)} | held)
        score = mean_figure(held)
        if score > run.best:
            run.best = score
            self.save(BEST, self.strategy.best(run))
        return held

    def save(self, name: str, state: dict[str, Any]) -> None:
        if self.strategy.rank == 0:
            checkpoints.save(self.plan.out / name, state)

    def progress(self, loss: float, held: dict[str, float]) -> TrainingProgress:
        """Returns what is told after a step."""
        run, done = self.run, self.clock.done()
        return TrainingProgress(
            epoch=(run.step - 1) // self.plan.epoch_steps,
            step=run.step - 1,
            steps=self.plan.steps,
            loss=loss,
            learning_rate=_rate(run),
            elapsed_s=run.elapsed_s,
            remaining_s=max(0.0, run.elapsed_s / max(done, 1e-6) * (1 - done)),
            held=held,
        )


def _warn_of_few_passes(run: TrainingRun, plan: TrainingPlan, done: float, *, over: bool) -> None:
    """Warn if the time budget ends the schedule after a few passes over the data, as soon as that can be predicted."""
    passes = run.step / plan.epoch_steps / min(1.0, max(done, 1e-6))
    if plan.minutes is not None and passes < min(FEW_PASSES, plan.epochs) - 0.5:
        _log.warning(
            "%g minutes %s for %.1f passes over the data, of %d: give more minutes, or a smaller network or input",
            plan.minutes,
            "were enough" if over else "will be enough",
            passes,
            plan.epochs,
        )


def mean_figure(figures: dict[str, float]) -> float:
    """Returns the mean of an evaluation's figures, by which evaluations are compared."""
    return float(np.mean(list(figures.values())))


def _rate(run: TrainingRun) -> float:
    return float(max(group["lr"] for group in run.optimizer.param_groups))
