"""Selection of the gradient scheme by measurements on this link and these workers.

Each scheme averages a stand-in for the gradients over the real link, and is timed. What of that time a step would wait
for follows from how long its backward pass is: buckets go while it computes, only the last one has nobody to hide
behind. Of the schemes whose accuracy has been shown to be float32's, the one with the least waiting is taken, and of
those that are about as good the most exact.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.gradients import SCHEMES
from lineside_converters.training.distributed.gradients.scheme import GradientBucket

SHOWN_EQUAL = ("fp32", "bf16", "int8", "low-rank")
"""Schemes whose final accuracy has been shown to be float32's; ``auto`` takes no others.

Shown is: over paired seeds the mean lies within half a point of float32's, and the 95 % interval's lower end is no
lower than half a point below it (`benchmarks.converters.training.accuracy`, docs/figures/training.md).
"""

TRIED_VALUES = 8_000_000
"""A larger network's gradients are stood in for by so many values, and the time is scaled."""

AS_GOOD = 0.03
"""Of a step: a scheme that is more exact may cost so much more."""


@dataclass(frozen=True, slots=True)
class SchemeChoice:
    """Measurements, and the choice that follows.

    Attributes:
        scheme: Taken.
        why: In words.
        compute_s: Forward and backward pass of a step.
        alone_s: By scheme, seconds that averaging takes by itself.
        waiting_s: By scheme, how much of it a step would wait for.
    """

    scheme: str
    why: str
    compute_s: float
    alone_s: dict[str, float]
    waiting_s: dict[str, float]


def time_schemes(model: nn.Module, exchange: Exchange, names: Sequence[str]) -> dict[str, float]:
    """Returns how long each scheme takes to average gradients like this network's; all workers must call it alike."""
    shapes = _stand_in([each.shape for each in model.parameters() if each.requires_grad])
    scale = sum(each.numel() for each in model.parameters() if each.requires_grad) / sum(s.numel() for s in shapes)
    device = next(model.parameters()).device
    sent = exchange.bytes_sent
    found = {}
    for name in names:
        scheme = SCHEMES[name](exchange)
        names_of = tuple(map(str, range(len(shapes))))
        flat = torch.randn(sum(shape.numel() for shape in shapes), device=device)
        seconds = []
        for _ in range(2):  # the first one makes residuals and factors
            dist.barrier()
            began_s = time.perf_counter()
            scheme.average(GradientBucket(flat, names_of, tuple(shapes)))
            seconds.append(time.perf_counter() - began_s)
        found[name] = slowest(min(seconds), device) * scale
    exchange.bytes_sent = sent  # a step sends none of this
    return found


def _stand_in(shapes: Sequence[torch.Size]) -> list[torch.Size]:
    """Returns shapes of the same kind, and at most as many values as are tried, the largest ones last."""
    kept: list[torch.Size] = []
    values = 0
    for shape in sorted(shapes, key=lambda each: each.numel()):
        if kept and values + shape.numel() > TRIED_VALUES:
            break
        kept.append(shape)
        values += shape.numel()
    return kept


def slowest(seconds: float, device: torch.device) -> float:
    """Returns the largest value of all workers."""
    value = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return float(value)


def choose(
    alone_s: dict[str, float], *, compute_s: float, backward_s: float, last_share: float, equal: Sequence[str]
) -> SchemeChoice:
    """Chooses a scheme.

    Args:
        alone_s: By scheme, the most exact first.
        compute_s: Forward and backward pass.
        backward_s: Backward pass alone, which averaging can hide behind.
        last_share: Of the values, those of the last bucket, which nothing hides.
        equal: Schemes whose accuracy has been shown.
    """
    waiting_s = {
        name: max(seconds * last_share, seconds - backward_s * (1 - last_share)) for name, seconds in alone_s.items()
    }
    fit = [name for name in alone_s if name in equal]
    least = min(waiting_s[name] for name in fit)
    taken = next(name for name in fit if waiting_s[name] <= least + AS_GOOD * (compute_s + least))
    figures = ", ".join(
        f"{name} {1e3 * alone_s[name]:.0f} ms, of which {1e3 * waiting_s[name]:.0f} would be waited for"
        for name in alone_s
    )
    left_out = [name for name in alone_s if name not in equal]
    why = f"a step computes {1e3 * compute_s:.0f} ms; averaging its gradients takes {figures}"
    if left_out:
        why += f"; {', '.join(left_out)} left out: not shown to train as well as fp32"
    return SchemeChoice(taken, why, compute_s, alone_s, waiting_s)


def last_share_of(model: nn.Module, bucket_bytes: float) -> float:
    """Returns what part of the gradients the last bucket holds: all of them where they fill only one."""
    sizes: list[Tensor] = [each for each in model.parameters() if each.requires_grad]
    whole = sum(each.nbytes for each in sizes)
    return min(1.0, (whole % bucket_bytes or bucket_bytes) / whole)
