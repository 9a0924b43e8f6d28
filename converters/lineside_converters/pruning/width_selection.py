"""Choose how many channels each group keeps: the wanted speed at the least predicted harm.

Step by step the group is narrowed, to whichever width, that saves most time for the harm that its curve says, until the
predicted time is reached. What a step saves depends on the widths chosen so far (a layer between two narrowed groups is
saved twice).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from lineside_converters.pruning.layer_cost import BLOCK, LayerCosts
from lineside_converters.pruning.sensitivity import ChannelSensitivity
from lineside_runtime.errors import PruningError

LEAST_KEPT = 0.2
"""Of a group's channels; below that fine-tuning didn't bring the answers back."""

_TINY = 1e-9


def step_of(width: int) -> int:
    """Returns by how many channels a group is narrowed at a time: an engine's block, or less for narrow groups."""
    return BLOCK if width >= 4 * BLOCK else BLOCK // 2 if width >= 2 * BLOCK else BLOCK // 4


def choose_widths(costs: LayerCosts, curves: Sequence[ChannelSensitivity], *, speedup: float) -> dict[str, int]:
    """Returns how many channels each group keeps.

    Args:
        speedup: How many times faster the network is to be, by prediction.
    """
    widths = dict(costs.full)
    wanted_us = costs.total_us / speedup
    by_name = {curve.group: curve for curve in curves}
    now_us = costs.predict_us(widths)
    while now_us > wanted_us:
        best = max(_moves(costs, by_name, widths, now_us), default=None)
        if best is None:
            raise PruningError(
                "not enough can be taken out",
                expected=f"{speedup:.2f} times the speed",
                actual=f"{costs.total_us / now_us:.2f} times at the narrowest",
                action="Ask for less speed, or distil the model into a smaller network: lineside distill.",
            )
        _, name, width, now_us = best
        widths[name] = width
    return widths


def _moves(
    costs: LayerCosts, curves: Mapping[str, ChannelSensitivity], widths: Mapping[str, int], now_us: float
) -> Iterator[tuple[float, str, int, float]]:
    """Yields microseconds saved for the harm, group, width and new time of every narrowing that saves anything."""
    for name, curve in curves.items():
        full = costs.full[name]
        for width in narrower(widths[name], full):
            us = costs.predict_us({**widths, name: width})
            if us < now_us:
                harm = curve.at(width / full) - curve.at(widths[name] / full)
                yield (now_us - us) / (harm + _TINY), name, width, us


def narrower(width: int, full: int) -> list[int]:
    """Returns the widths below ``width`` that a group of ``full`` channels may have."""
    step = step_of(full)
    least = max(1, math.ceil(LEAST_KEPT * full))
    return [each for each in range((width - 1) // step * step, 0, -step) if each >= least]


def predicted_harm(curves: Sequence[ChannelSensitivity], widths: Mapping[str, int], full: Mapping[str, int]) -> float:
    """Returns the sum of the groups' harms, by their curves."""
    return sum(curve.at(widths[curve.group] / full[curve.group]) for curve in curves)
