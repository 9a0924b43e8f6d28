"""One worker of `benchmarks.training.more_workers`, in its own network namespace."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import torch
import torchvision
from torch import Tensor, nn

from benchmarks.smoke import scaled
from benchmarks.training.namespaces import set_rate
from benchmarks.training.ranks import join, leave
from lineside_converters.training.distributed.cost import Figures
from lineside_converters.training.distributed.workers import Together, Workers
from lineside_converters.training.loop import parameter_groups, start

RATE_MBIT = 350.0
FORWARD_S, BACKWARD_S = scaled((0.25, 0.5), smoke=(0.01, 0.02))
"""So slow that copying the bytes of four workers, which the two cores really do, is little beside it."""

ROWS = 16
WARM_UP, STEPS = scaled((3, 10), smoke=(1, 2))


class _Rest(torch.autograd.Function):
    """Lets a pass take its time, and gives the weight a gradient."""

    @staticmethod
    def forward(ctx: Any, passed: Tensor, weight: Tensor, gradient: Tensor, share: float) -> Tensor:
        """Returns ``passed`` after this weight's share of a forward pass."""
        ctx.gradient, ctx.share = gradient, share
        time.sleep(FORWARD_S * share)
        return passed.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gives the gradient after this weight's share of a backward pass."""
        time.sleep(BACKWARD_S * ctx.share)
        return grads[0], ctx.gradient, None, None


class Resting(nn.Module):
    """ResNet-18's parameters without its work: every weight takes the same share of a pass, vectors none."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        shapes = [each.shape for each in torchvision.models.resnet18(num_classes=12).parameters()]
        self.weights = nn.ParameterList(torch.zeros(shape) for shape in shapes)
        drawn = torch.Generator().manual_seed(seed)
        self._gradients = [torch.randn(shape, generator=drawn) for shape in shapes]
        self._share = 1 / sum(len(shape) > 1 for shape in shapes)

    def forward(self, passed: Tensor) -> Tensor:
        """Returns what came in, ``(1,)``."""
        for weight, gradient in zip(self.weights, self._gradients, strict=True):
            share = self._share if weight.dim() > 1 else 0.0
            passed = _Rest.apply(passed, weight, gradient, share)  # type: ignore[no-untyped-call]  # torch's stub
        return passed


def measured(scheme: str, rank: int, workers: int) -> Figures:
    """Makes steps, and returns what they cost."""
    how = Together(layout="ddp", scheme=scheme, batch=workers * ROWS, warm_up_steps=0)
    strategy = Workers(how, torch.device("cpu"), Path(tempfile.mkdtemp()), lambda *_: None)
    model = Resting(rank)
    course = start(model, parameter_groups(model, lambda _: 1e-3), strategy=strategy)
    passed = torch.ones(1, requires_grad=True)
    for number in range(WARM_UP + STEPS):
        if number == WARM_UP:
            strategy.meter.steps.clear()
        total = strategy.forward(course, lambda module, batch: module(batch).sum(), passed)
        course.optimizer.zero_grad(set_to_none=True)
        strategy.backward(course, total)
        strategy.step_ended(course)  # without the optimiser: it is no part of what is predicted, and needs the cores
        course.step += 1
    found = strategy.figures()
    strategy.exchange.close()
    return found


def main(schemes: list[str], rank: int, workers: int, interface: str) -> None:
    """Measures every scheme and prints one line of JSON."""
    set_rate(interface, RATE_MBIT)
    join(rank, workers)
    found = {scheme: measured(scheme, rank, workers) for scheme in schemes}
    print(msgspec.json.encode(found).decode(), flush=True)
    leave()


if __name__ == "__main__":
    main(sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
