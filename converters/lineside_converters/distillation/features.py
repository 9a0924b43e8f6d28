"""Feature distillation by a learned projection at equal scale.

Which layers belong together is found by running both: of every height and width that both have inside, the last layer
that gives a map of that size. A 1×1 convolution, trained along and thrown away at the end, makes the student's channels
the teacher's (FitNets, Romero et al., arXiv:1412.6550); each teacher channel counts by its own spread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lineside_converters.training.objective import TrainingObjective

SCALES = 2
"""Number of deepest scales whose features are compared: earlier ones constrained small students too much."""


@dataclass(frozen=True, slots=True)
class LayerPair:
    """A layer of the student and one of the teacher whose maps have the same height and width.

    Attributes:
        student: Name of the student's layer.
        channels: Channels of the student's and of the teacher's map.
    """

    student: str
    teacher: str
    channels: tuple[int, int]


class FeatureStudent(nn.Module):
    """A student, with the projections that its features are compared through."""

    def __init__(self, student: nn.Module, teacher: nn.Module, objective: TrainingObjective[Any]) -> None:
        """Finds the pairs of layers."""
        super().__init__()
        self.student = student
        self.pairs = pair_up(student, teacher, objective.some(1)[0][:2])
        self.projections = nn.ModuleList(nn.Conv2d(*pair.channels, 1) for pair in self.pairs)

    def forward(self, image: Tensor) -> Any:
        """Returns the student's outputs."""
        return self.student(image)

    def apart(self, seen: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
        """Returns the mean over the pairs of the squared difference as a share of the teacher's spread."""
        parts = []
        for pair, project in zip(self.pairs, self.projections, strict=True):
            theirs = wanted[pair.teacher].float()
            ours = project(seen[pair.student].float())
            spread = theirs.var((0, 2, 3), keepdim=True).clamp(min=1e-4)
            parts.append(((ours - theirs).square() / spread).mean().clamp(max=10.0))
        return torch.stack(parts).mean()


@torch.no_grad()
def pair_up(student: nn.Module, teacher: nn.Module, example: Tensor) -> tuple[LayerPair, ...]:
    """Finds the last layers of each scale that both networks have, the deepest scales first."""
    ours, theirs = (_last_of_each_scale(module, example) for module in (student, teacher))
    common = sorted(ours.keys() & theirs.keys())[:SCALES]
    return tuple(LayerPair(ours[s][0], theirs[s][0], (ours[s][1], theirs[s][1])) for s in common)


def _last_of_each_scale(module: nn.Module, example: Tensor) -> dict[tuple[int, int], tuple[str, int]]:
    found: dict[tuple[int, int], tuple[str, int]] = {}

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            found[(output.shape[2], output.shape[3])] = (name, output.shape[1])

    hooks = [
        child.register_forward_hook(lambda _m, _i, output, name=name: note(name, output))
        for name, child in module.named_modules()
        if name and not list(child.children())
    ]
    try:
        module.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextlib.contextmanager
def tapped(module: nn.Module, names: Sequence[str], prefix: str = "") -> Iterator[dict[str, Tensor]]:
    """Collects what the named layers give while the block runs.

    Args:
        prefix: Put before the names to find them in ``module``.
    """
    seen: dict[str, Tensor] = {}
    hooks = [
        module.get_submodule(prefix + name).register_forward_hook(
            lambda _m, _i, output, name=name: seen.__setitem__(name, output)
        )
        for name in names
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
