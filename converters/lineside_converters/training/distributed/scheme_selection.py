"""Selection of the gradient scheme by measurements on this link and these workers.

Each scheme averages a stand-in for the gradients over the real link, and is timed. What of that time a step would wait
for follows from how long its backward pass is: buckets go while it computes, only the last one has nobody to hide
behind, and updates of sharded parameters have nothing to hide behind. Local updates hide a fragment's exchange behind
whole steps. Of the schemes whose accuracy has been shown to be float32's, the one with the least waiting is taken, and
of those that are about as good the most exact.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.gradients import SCHEMES, GradientScheme, Int4
from lineside_converters.training.distributed.gradients.codecs import gather_rows
from lineside_converters.training.distributed.gradients.local import ROUND_STEPS
from lineside_converters.training.distributed.gradients.scheme import GradientBucket
from lineside_converters.training.distributed.local_updates import FRAGMENTS, MERGE_AFTER

SHOWN_EQUAL: dict[str, tuple[str, ...]] = {"ddp": ("fp32",), "zero1": ("fp32",), "fsdp": ("fp32",)}
"""By layout, schemes whose final accuracy has been shown to be float32's; ``auto`` takes no others.

Shown is: over paired seeds the 95 % interval's lower end is no lower than half a point below float32's, for the
classifier and for the detector of `benchmarks.converters.training.accuracy` (docs/figures/training.md). A test compares
this with the result.
"""

TRIED_VALUES = 8_000_000
"""A larger network's gradients are stood in for by so many values, and the time is scaled."""

AS_GOOD = 0.03
"""Of a step: a scheme that is more exact may cost so much more."""


@dataclass(frozen=True, slots=True)
class TrialTime:
    """Time of a scheme's exchanges without training.

    Attributes:
        averaging_s: Of all gradients; of all parameters under local updates.
        update_s: Of the updates of sharded parameters.
    """

    averaging_s: float
    update_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SchemeChoice:
    """Measurements, and the choice that follows.

    Attributes:
        compute_s: Forward and backward pass of a step.
        alone_s: By scheme, seconds that the exchanges of a step take by themselves.
        waiting_s: By scheme, how much of it a step would wait for.
    """

    scheme: str
    why: str
    compute_s: float
    alone_s: dict[str, float]
    waiting_s: dict[str, float]


def time_schemes(
    model: nn.Module, exchange: Exchange, names: Sequence[str], *, sharded: bool = False
) -> dict[str, TrialTime]:
    """Returns how long each scheme takes for gradients like this network's; all workers must call it alike.

    Args:
        sharded: Whether each worker updates a share of the parameters and sends it to the others.
    """
    shapes = _stand_in([each.shape for each in model.parameters() if each.requires_grad])
    scale = sum(each.numel() for each in model.parameters() if each.requires_grad) / sum(s.numel() for s in shapes)
    device = next(model.parameters()).device
    sent = exchange.bytes_sent
    found = {}
    for name in names:
        # what local updates send of parameters is as much as Int4 sends of gradients
        scheme = SCHEMES[Int4.name if SCHEMES[name].local else name](exchange)
        flat = torch.randn(sum(shape.numel() for shape in shapes), device=device)
        bundled = GradientBucket(flat, tuple(map(str, range(len(shapes)))), tuple(shapes))
        trials = [_trial(scheme, bundled, sharded=sharded) for _ in range(2)]  # the first makes residuals and factors
        averaging_s, update_s = (slowest(min(each), device) * scale for each in zip(*trials, strict=True))
        found[name] = TrialTime(averaging_s, update_s)
    exchange.bytes_sent = sent  # a step sends none of this
    return found


def _trial(scheme: GradientScheme, bundled: GradientBucket, *, sharded: bool) -> tuple[float, float]:
    """Returns the seconds of averaging, and of the updates that follow where they are sharded."""
    dist.barrier()
    began_s = time.perf_counter()
    if not sharded:
        scheme.average(bundled)
        return time.perf_counter() - began_s, 0.0
    length = scheme.codec.row_length(bundled.flat.numel(), scheme.exchange.world)
    mean = scheme.scatter(bundled, length)
    averaged_s = time.perf_counter()
    gather_rows(scheme.codec, scheme.exchange, mean, bundled.flat, length)
    return averaged_s - began_s, time.perf_counter() - averaged_s


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


def waiting_of(name: str, trial: TrialTime, *, compute_s: float, backward_s: float, last_share: float) -> float:
    """Returns the seconds that a step waits; see `choose`."""
    if SCHEMES[name].local:
        fragment_s = trial.averaging_s / FRAGMENTS
        return FRAGMENTS / ROUND_STEPS * max(0.0, fragment_s - MERGE_AFTER * compute_s)
    hidden_s = min(trial.averaging_s, backward_s) * (1 - last_share)
    return trial.averaging_s - hidden_s + trial.update_s


def choose(
    trials: dict[str, TrialTime], *, compute_s: float, backward_s: float, last_share: float, equal: Sequence[str]
) -> SchemeChoice:
    """Chooses a scheme.

    Args:
        trials: By scheme, the most exact first.
        compute_s: Forward and backward pass.
        backward_s: Backward pass alone, which averaging can hide behind.
        last_share: Of the values, those of the last bucket, which nothing hides.
        equal: Schemes whose accuracy has been shown.
    """
    waiting_s = {
        name: waiting_of(name, each, compute_s=compute_s, backward_s=backward_s, last_share=last_share)
        for name, each in trials.items()
    }
    alone_s = {name: each.averaging_s + each.update_s for name, each in trials.items()}
    fit = [name for name in trials if name in equal]
    least = min(waiting_s[name] for name in fit)
    taken = next(name for name in fit if waiting_s[name] <= least + AS_GOOD * (compute_s + least))
    figures = ", ".join(
        f"{name} {1e3 * alone_s[name]:.0f} ms"
        + (f" once in {ROUND_STEPS} steps" if SCHEMES[name].local else "")
        + f", of which {1e3 * waiting_s[name]:.0f} a step would be waited for"
        for name in trials
    )
    left_out = [name for name in trials if name not in equal]
    why = f"a step computes {1e3 * compute_s:.0f} ms; exchanging takes {figures}"
    if left_out:
        why += f"; {', '.join(left_out)} left out: not shown to train as well as fp32"
    return SchemeChoice(taken, why, compute_s, alone_s, waiting_s)


def last_share_of(model: nn.Module, bucket_bytes: float) -> float:
    """Returns the share of the gradients in the last bucket."""
    sizes: list[Tensor] = [each for each in model.parameters() if each.requires_grad]
    whole = sum(each.nbytes for each in sizes)
    return min(1.0, (whole % bucket_bytes or bucket_bytes) / whole)
