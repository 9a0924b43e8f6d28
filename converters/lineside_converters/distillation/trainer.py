"""Train a network with another one as its teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lineside_converters.distillation.features import FeatureStudent, tapped
from lineside_converters.distillation.losses import DistillationLoss
from lineside_converters.training import checkpoints
from lineside_converters.training.loop import BEST, CHECKPOINT, TrainingPlan, fit, parameter_groups, start_run
from lineside_converters.training.objective import TrainingObjective, as_tuple
from lineside_converters.training.progress import OnProgress
from lineside_converters.training.strategy import ALONE, Strategy
from lineside_runtime.errors import ConfigError

B = TypeVar("B")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationSettings:
    """Weights of the losses and length of the training; a value out of range is a `ConfigError`.

    Attributes:
        learning_rate: Its peak.
        true_weight: Weight of the loss against the annotations.
        teach_weight: Weight of the loss against the teacher's answers.
        feature_weight: Weight of the loss against the teacher's features, where some are given.
        minutes: Wall time after which the schedule ends early.
        evaluate_every: Epochs between evaluations.
        warm_up_steps: Steps in which the learning rate rises, a tenth of the run at most.
        bf16: Multiply in bfloat16 where the processor does: 2.5 times as fast for dense convolutions on one with
            AVX512-BF16, and slower for depthwise ones' gradients.
        teacher_bf16: The same for the teacher alone, which has no gradients.
    """

    learning_rate: float = 6e-4
    true_weight: float = 1.0
    teach_weight: float = 1.0
    feature_weight: float = 0.0
    epochs: int = 20
    minutes: float | None = None
    evaluate_every: int = 2
    warm_up_steps: int = 60
    threads: int = 2
    seed: int = 0
    bf16: bool = False
    teacher_bf16: bool = False

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("learning_rate", 0 < self.learning_rate < 1, "between 0 and 1"),
            ("true_weight", 0 <= self.true_weight < math.inf, "0 or more"),
            ("teach_weight", 0 <= self.teach_weight < math.inf, "0 or more"),
            ("feature_weight", 0 <= self.feature_weight < math.inf, "0 or more"),
            ("epochs", self.epochs >= 1, "1 or more"),
            ("minutes", self.minutes is None or self.minutes > 0, "more than 0, or none"),
            ("threads", self.threads >= 1, "1 or more"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not good:
                raise ConfigError(name, expected=expected, actual=getattr(self, name))

    def as_dict(self) -> dict[str, Any]:
        """Returns the settings for reports."""
        return {name: getattr(self, name) for name in self.__slots__}


def train_student(
    student: nn.Module,
    teacher: nn.Module | None,
    objective: TrainingObjective[B],
    distillation_loss: DistillationLoss,
    *,
    settings: DistillationSettings,
    out: Path,
    on_progress: OnProgress,
    strategy: Strategy = ALONE,
) -> list[dict[str, float]]:
    """Trains a student to the end, or resumes the run in ``out``, and loads its best weights into it.

    Of several workers none loads them: they are in ``best.pt`` of the first one.

    Args:
        student: Changed in place.
        teacher: Frozen here; ``None`` for a student without one.
        out: Folder of the checkpoints.
        strategy: One process, or one of several workers.

    Returns:
        The curve: the figures at each evaluation.

    Raises:
        TrainingError: The loss is not finite, or the checkpoint is of another network.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    model = student
    if teacher is not None:
        teacher.eval().requires_grad_(False)
        teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        if settings.feature_weight > 0:
            model = FeatureStudent(student, teacher, objective)
    resumed = checkpoints.load(out / CHECKPOINT) if (out / CHECKPOINT).exists() else None
    groups = parameter_groups(model, lambda _: settings.learning_rate)
    run = start_run(model, groups, resumed=resumed, strategy=strategy)
    plan = TrainingPlan(
        out=out,
        epochs=settings.epochs,
        epoch_steps=objective.epoch_steps,
        minutes=settings.minutes,
        evaluate_every=settings.evaluate_every,
        warm_up_steps=min(settings.warm_up_steps, settings.epochs * objective.epoch_steps // 10),
        settings=settings.as_dict(),
    )
    fit(
        run,
        plan,
        batches=objective.batches,
        loss=_loss_of(teacher, objective, distillation_loss, settings),
        evaluate=objective.evaluate,
        on_progress=on_progress,
        strategy=strategy,
    )
    if strategy.world == 1:
        model.load_state_dict(checkpoints.load(out / BEST))
    return run.curve


def _loss_of(
    teacher: nn.Module | None,
    objective: TrainingObjective[B],
    distillation_loss: DistillationLoss,
    settings: DistillationSettings,
) -> Callable[[nn.Module, B], Tensor]:
    """Returns the loss of a student on a batch: against annotations, the teacher's answers, and its feature maps."""

    def loss(student: nn.Module, batch: B) -> Tensor:
        images = objective.images(batch)
        pairs = student.pairs if isinstance(student, FeatureStudent) else ()
        with _bf16(settings.bf16), tapped(student, [pair.student for pair in pairs], "student.") as seen:
            outputs = _floats(student(images))
        parts = []
        true = objective.true_loss(outputs, batch) if settings.true_weight else None
        if true is not None:
            parts.append(settings.true_weight * true)
        if teacher is not None:
            with (
                torch.no_grad(),
                _bf16(settings.bf16 or settings.teacher_bf16),
                tapped(teacher, [pair.teacher for pair in pairs]) as wanted,
            ):
                answers = _floats(teacher(images))
            parts.append(settings.teach_weight * distillation_loss.loss(outputs, answers))
            if pairs and isinstance(student, FeatureStudent):
                parts.append(settings.feature_weight * student.apart(seen, wanted))
        return torch.stack(parts).sum()

    return loss


def _bf16(wanted: bool) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=wanted)


def _floats(outputs: Any) -> tuple[Tensor, ...]:
    return tuple(each.float() for each in as_tuple(outputs))
