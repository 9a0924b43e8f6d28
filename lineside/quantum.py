"""``lineside.quantum``: `QuantumHead`, a classifier head with a simulated quantum circuit. Host only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lineside.extras import needs

if TYPE_CHECKING:
    from lineside_converters.training.quantum.head import QuantumHead

__all__ = ["QuantumHead"]


def __getattr__(name: str) -> Any:
    if name != "QuantumHead":
        raise AttributeError(f"module 'lineside.quantum' has no attribute {name!r}")
    with needs("quantum"):  # torch and PennyLane, which no device has
        from lineside_converters.training.quantum.head import QuantumHead
    return QuantumHead
