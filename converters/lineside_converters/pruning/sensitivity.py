"""Sensitivity curves: the harm of removing channels of one group alone, measured on frames.

Channels go in the order of their Fisher information: how much the loss would change if a channel were scaled to
nothing, to second order (Theis et al., arXiv:1801.05787), summed over all layers that share the channel
(Molchanov et al., arXiv:1906.10771). The answers of the network with fewer channels are taken with its batch norms
counted on the frames themselves, else every group looks far worse than it is after fine-tuning.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lineside_converters.distillation.losses import DistillationLoss
from lineside_converters.pruning.channel_groups import ChannelGroup, remove
from lineside_converters.training.objective import Outputs, as_tuple
from lineside_runtime.progress import TextListener

KEPT = (0.75, 0.5, 0.25)
"""Shares of a group's channels that are kept where the curve is measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class ChannelSensitivity:
    """Sensitivity curve of one group.

    Attributes:
        kept: Shares of the channels that were kept, falling from 1.
        harm: Loss against the whole network at each, not falling.
    """

    group: str
    kept: tuple[float, ...]
    harm: tuple[float, ...]

    def at(self, share: float) -> float:
        """Returns the harm at a share of the channels, interpolated and extrapolated linearly."""
        if share >= self.kept[-1]:
            return float(np.interp(-share, [-k for k in self.kept], self.harm))
        slope = (self.harm[-1] - self.harm[-2]) / (self.kept[-2] - self.kept[-1])
        return self.harm[-1] + slope * (self.kept[-1] - share)


def rank_channels(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Sequence[Tensor],
    distillation_loss: DistillationLoss,
    *,
    seed: int,
) -> dict[str, Tensor]:
    """Measures the importance of every channel.

    Returns:
        By group, ``(width,)`` Fisher information; larger matters more.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = {group.name: torch.zeros(group.width) for group in groups}
    module.eval()
    for batch in batches:
        module.zero_grad(set_to_none=True)
        distillation_loss.probe(as_tuple(module(batch)), generator).backward()  # type: ignore[no-untyped-call]
        for group in groups:
            gate = torch.zeros(group.width)
            for name in group.makers:
                share = _gate(module, name)
                if share is not None and len(share) == group.width:
                    gate += share
            sums[group.name] += gate.square()
    module.zero_grad(set_to_none=True)
    return sums


def _gate(module: nn.Module, name: str) -> Tensor | None:
    """Returns the gradient for a factor on each of a layer's channels: behind its batch norm, or on its weights."""
    layer = module.get_submodule(name)
    parent = module.get_submodule(name.rpartition(".")[0])
    norm = next((found for found in parent.children() if isinstance(found, nn.BatchNorm2d)), None)
    scaled = norm if norm is not None and isinstance(parent, nn.Sequential) else layer
    total = None
    for parameter in (scaled.weight, scaled.bias):
        if isinstance(parameter, Tensor) and parameter.grad is not None:
            part = (parameter * parameter.grad).detach().flatten(1).sum(1) if parameter.ndim > 1 else None
            part = (parameter * parameter.grad).detach() if part is None else part
            total = part if total is None else total + part
    return total


def weakest(scores: Tensor, count: int) -> list[int]:
    """Returns the indices of the ``count`` channels that matter least."""
    return sorted(int(index) for index in scores.argsort(stable=True)[:count])


def measure_curves(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    ranks: Mapping[str, Tensor],
    batches: Sequence[Tensor],
    distillation_loss: DistillationLoss,
    *,
    report: TextListener,
) -> list[ChannelSensitivity]:
    """Prunes every group alone at several ratios and measures what that does to the answers.

    Args:
        batches: Inputs; the statistics of the batch norms are those of each batch.
    """
    wanted = [_answers(module, batch) for batch in batches]
    with_batch_norms = [_answers(module, batch, counting=True) for batch in batches]
    floor = _harm(with_batch_norms, wanted, distillation_loss)
    curves = []
    for number, group in enumerate(groups):
        harms = [0.0]
        for share in KEPT:
            count = group.width - max(1, round(group.width * share))
            trial = copy.deepcopy(module)
            remove(trial, batches[0][:1], {group.name: weakest(ranks[group.name], count)})
            found = [_answers(trial, batch, counting=True) for batch in batches]
            harms.append(max(harms[-1], _harm(found, wanted, distillation_loss) - floor))
        curves.append(ChannelSensitivity(group.name, (1.0, *KEPT), tuple(harms)))
        report(f"sensitivity: {number + 1} of {len(groups)} groups")
    return curves


@torch.no_grad()
def _answers(module: nn.Module, batch: Tensor, *, counting: bool = False) -> Outputs:
    module.eval()
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d) and counting]
    kept = [(norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        norm.running_mean = norm.running_var = None  # then it takes the batch's own statistics, and keeps none of them
    try:
        return as_tuple(module(batch))
    finally:
        for norm, (mean, variance) in zip(norms, kept, strict=True):
            norm.running_mean, norm.running_var = mean, variance


def _harm(found: Sequence[Outputs], wanted: Sequence[Outputs], distillation_loss: DistillationLoss) -> float:
    return float(np.mean([distillation_loss.harm(ours, theirs) for ours, theirs in zip(found, wanted, strict=True)]))
