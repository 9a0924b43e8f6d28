"""`federated` with tiles of boards (deeppcb)."""

from __future__ import annotations

from typing import Any

from benchmarks.hub.federated import OFTEN, compare
from benchmarks.hub.federated.splits import BOARDS
from benchmarks.smoke import kept, scaled

FEDERATIONS = scaled((("by type", OFTEN), ("by part", OFTEN)), smoke=(("by part", ""),))
SEEDS = scaled((0, 1), smoke=(0,))


def run() -> dict[str, Any]:
    """Trains both splits."""
    return compare(BOARDS, kept(".federated-boards"), FEDERATIONS, SEEDS)
