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
    wanted_us = costs.total_us / speedup
    widths, us = narrow(costs, curves, costs.full, wanted_us=wanted_us)
    if us > wanted_us:
        raise PruningError(
            "not enough can be taken out",
            expected=f"{speedup:.2f} times the speed",
            actual=f"{costs.total_us / us:.2f} times at the narrowest",
            action="Ask for less speed, or distil the model into a smaller network: lineside distill.",
        )
    return widths


def narrow(
    costs: LayerCosts, curves: Sequence[ChannelSensitivity], widths: Mapping[str, int], *, wanted_us: float
) -> tuple[dict[str, int], float]:
    """Narrows the groups of the curves until the predicted time is reached, or no narrowing saves time any more.

    Args:
        widths: Of all groups, to begin with.

    Returns:
        The widths of all groups, and the time that is predicted for them.
    """
    layers = costs.layers_of_groups()
    narrowed, us = dict(widths), costs.predict_us(widths)
    while us > wanted_us:
        best = max(_moves(costs, curves, narrowed, layers), default=None)
        if best is None:
            break
        _, name, width, saved_us = best
        narrowed[name] = width
        us -= saved_us
    return narrowed, us


def _moves(
    costs: LayerCosts,
    curves: Sequence[ChannelSensitivity],
    widths: Mapping[str, int],
    layers: Mapping[str, Sequence[str]],
) -> Iterator[tuple[float, str, int, float]]:
    """Yields every narrowing that saves time: time saved for its harm, group, new width, microseconds saved."""
    for curve in curves:
        name, full = curve.group, costs.full[curve.group]
        now_us, now_harm = costs.layers_time_us(layers[name], widths), curve.at(widths[name] / full)
        for width in narrower(widths[name], full):
            saved_us = now_us - costs.layers_time_us(layers[name], {**widths, name: width})
            if saved_us > 0:
                yield saved_us / (curve.at(width / full) - now_harm + _TINY), name, width, saved_us


def narrower(width: int, full: int) -> list[int]:
    """Returns the widths below ``width`` that a group of ``full`` channels may have."""
    step = step_of(full)
    least = max(1, math.ceil(LEAST_KEPT * full))
    return [each for each in range((width - 1) // step * step, 0, -step) if each >= least]


def predicted_harm(curves: Sequence[ChannelSensitivity], widths: Mapping[str, int], full: Mapping[str, int]) -> float:
    """Returns the sum of the groups' harms, by their curves."""
    return sum(curve.at(widths[curve.group] / full[curve.group]) for curve in curves)
