"""Sharding layouts: what of the network's state each worker holds."""

from __future__ import annotations

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


def layout_for(parameter_bytes: int, memory_bytes: int, world: int) -> tuple[str, str]:
    """Returns the least divided layout that fits a worker's memory, and why.

    Args:
        parameter_bytes: Of the network in float32.
        memory_bytes: Of the smallest worker.
    """
    for name, kind in LAYOUTS.items():
        needed = kind.copies(world) * parameter_bytes
        if needed <= ROOM * memory_bytes or name == FullySharded.name:
            return name, (
                f"{needed / 1e6:.0f} MB of state a worker under {name}, of {ROOM:.0%} of {memory_bytes / 1e6:.0f} MB"
            )
    raise AssertionError("the last layout is always taken")


def new_layout(name: str, exchange: Exchange) -> ShardingLayout:
    """Returns a layout by name."""
    return LAYOUTS[name](exchange)


__all__ = ["FULLY_SHARDED_SCHEMES", "LAYOUTS", "OptimizerSharded", "ShardingLayout", "layout_for", "new_layout"]
