"""Distillation losses by kind of output, without true labels.

Each way has two sides. ``loss`` says how far a student's answers are from the teacher's; its value for the teacher's
own answers is not 0 (a soft answer has entropy), so `DistillationLoss.harm` takes it off. ``probe`` is what importance
is measured with: the loss against answers *drawn* from the network's own, whose gradients' squares are the Fisher
information (Theis et al., arXiv:1801.05787). The plain loss has no gradient where student and teacher are one.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lineside_converters.training.detection.loss import flatten
from lineside_converters.training.objective import Outputs
from lineside_models.networks.detector import REG_BINS


class DistillationLoss(abc.ABC):
    """Distance between the outputs of a student and of its teacher, all of them in order.

    Attributes:
        name: In reports and files; it stays when the class is renamed.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def loss(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Returns how far the student is from the teacher: a scalar with a gradient for the student."""

    @abc.abstractmethod
    def probe(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Returns a scalar whose gradient is that of the loss against answers drawn from the outputs themselves."""

    @torch.no_grad()
    def harm(self, student: Outputs, teacher: Outputs) -> float:
        """Returns the loss that the student has beyond the teacher's own."""
        return float(self.loss(student, teacher) - self.loss(teacher, teacher))


@dataclasses.dataclass(frozen=True, slots=True)
class LogitDistillation(DistillationLoss):
    """A classifier's logits ``(B, C)``: Kullback-Leibler at a temperature (Hinton et al., arXiv:1503.02531)."""

    name: ClassVar[str] = "logits"

    temperature: float = 4.0

    def loss(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Returns T² times the cross-entropy against the softened teacher."""
        soft = (teacher[0] / self.temperature).softmax(1)
        logs = (student[0] / self.temperature).log_softmax(1)
        return -(soft * logs).sum(1).mean() * self.temperature**2

    def probe(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Draws a class from each softened answer."""
        logits = outputs[0] / self.temperature
        drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=generator)[:, 0]
        return F.cross_entropy(logits, drawn) * self.temperature


@dataclasses.dataclass(frozen=True, slots=True)
class DetectorDistillation(DistillationLoss):
    """An anchor-free detector's maps: scores, and the distributions of the distances (localisation distillation).

    The distributions are compared where the teacher sees something, weighted by its score (Zheng et al.,
    arXiv:2102.12252); the scores everywhere, weighted by how far apart they are (quality focal loss, Li et al.,
    arXiv:2006.04388).

    Attributes:
        levels: How many strides there are: the outputs are so many score maps and then so many distance maps.
    """

    name: ClassVar[str] = "detector"

    levels: int = 3
    bins: int = REG_BINS
    temperature: float = 2.0
    box_weight: float = 0.5

    def loss(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Returns both parts, divided by the sum of the teacher's scores."""
        scores, wanted = (flatten(tuple(each[: self.levels])) for each in (student, teacher))
        sides, wanted_sides = (flatten(tuple(each[self.levels :])) for each in (student, teacher))
        sure = wanted.sigmoid()
        scale = sure.sum().clamp(min=1.0)
        apart = (scores.detach().sigmoid() - sure).abs().clamp(min=0.02)
        score_loss = (F.binary_cross_entropy_with_logits(scores, sure, reduction="none") * apart.square()).sum()
        own = F.binary_cross_entropy_with_logits(wanted, sure, reduction="none")
        score_loss = score_loss - (own * apart.square()).sum()
        where = sure.amax(-1)
        soft = self._bins(wanted_sides).softmax(-1)
        logs = self._bins(sides).log_softmax(-1)
        apart_bins = F.kl_div(logs, soft, reduction="none").sum(-1).mean(-1)
        boxes = (apart_bins * where).sum() * self.temperature**2
        return (score_loss * 4 + boxes * self.box_weight) / scale

    def probe(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Draws a Boolean from every score, and a bin from every distribution where a defect is seen."""
        scores, sides = flatten(tuple(outputs[: self.levels])), flatten(tuple(outputs[self.levels :]))
        sure = scores.detach().sigmoid()
        drawn = torch.bernoulli(sure, generator=generator)
        yes_no = F.binary_cross_entropy_with_logits(scores, drawn, reduction="sum")
        bins = self._bins(sides)
        flat = bins.detach().softmax(-1).reshape(-1, self.bins)
        chosen = torch.multinomial(flat, 1, generator=generator).reshape(bins.shape[:-1])
        logs = bins.log_softmax(-1).gather(-1, chosen[..., None]).squeeze(-1).sum(-1)
        boxes = -(logs * (sure.amax(-1) * self.box_weight).sqrt()).sum()
        return (yes_no + boxes) / max(1, len(scores))

    def _bins(self, sides: Tensor) -> Tensor:
        return sides.reshape(*sides.shape[:2], 4, self.bins) / self.temperature


@dataclasses.dataclass(frozen=True, slots=True)
class ValueDistillation(DistillationLoss):
    """Distillation of other outputs: squared differences, each relative to its output's spread."""

    name: ClassVar[str] = "values"

    def loss(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Returns the mean over the outputs of the squared error as a share of the teacher's variance."""
        parts = [
            (ours - theirs).square().mean() / theirs.detach().var().clamp(min=1e-6)
            for ours, theirs in zip(student, teacher, strict=True)
        ]
        return torch.stack(parts).mean()

    def probe(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Projects every output onto normal noise."""
        parts = [
            (each * torch.randn(each.shape, generator=generator)).sum() / each.detach().std().clamp(min=1e-3)
            for each in outputs
        ]
        return torch.stack(parts).sum()


def distillation_loss_for(postprocess: str, outputs: Outputs) -> DistillationLoss:
    """Returns the distillation loss that fits a model's outputs."""
    if postprocess == "dfl_anchor_free" and len(outputs) % 2 == 0:
        levels = len(outputs) // 2
        return DetectorDistillation(levels=levels, bins=outputs[-1].shape[1] // 4)
    if len(outputs) == 1 and outputs[0].ndim == 2 and outputs[0].shape[1] > 1:
        return LogitDistillation()
    return ValueDistillation()
