"""Sharding layouts: what of the network's state each worker holds."""

from __future__ import annotations

from collections.abc import Sequence

from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.sharding.fsdp import FullySharded
from lineside_converters.training.distributed.sharding.layout import Replicated, ShardingLayout
from lineside_converters.training.distributed.sharding.zero import OptimizerSharded

LAYOUTS: dict[str, type[ShardingLayout]] = {kind.name: kind for kind in (Replicated, OptimizerSharded, FullySharded)}
"""All of them by name, the least divided first."""

FULLY_SHARDED_SCHEMES = ("fp32", "int8")
"""Schemes that FSDP2's reduce-scatter has here."""

ROOM = 0.6
"""Of a worker's memory, what the network's state may take: activations and pictures need the rest."""


def layouts_with(scheme: str) -> tuple[str, ...]:
    """Returns the layouts, the least divided first, whose gradients a scheme can average."""
    return tuple(name for name in LAYOUTS if name != FullySharded.name or scheme in FULLY_SHARDED_SCHEMES)


def layout_for(
    parameter_bytes: int, memory_bytes: int, world: int, names: Sequence[str] = tuple(LAYOUTS)
) -> tuple[str, str]:
    """Returns the least divided layout that fits a worker's memory, the last one where none does, and why.

    Args:
        parameter_bytes: Of the network in float32.
        memory_bytes: Of the smallest worker.
        names: Layouts to choose from, the least divided first.
    """
    for name in names:
        needed = LAYOUTS[name].copies(world) * parameter_bytes
        if needed <= ROOM * memory_bytes or name == names[-1]:
            return name, (
                f"{needed / 1e6:.0f} MB of state a worker under {name}, of {ROOM:.0%} of {memory_bytes / 1e6:.0f} MB"
            )
    raise AssertionError("the last layout is always taken")


def new_layout(name: str, exchange: Exchange) -> ShardingLayout:
    """Returns a layout by name."""
    return LAYOUTS[name](exchange)


__all__ = [
    "FULLY_SHARDED_SCHEMES",
    "LAYOUTS",
    "OptimizerSharded",
    "ShardingLayout",
    "layout_for",
    "layouts_with",
    "new_layout",
]
