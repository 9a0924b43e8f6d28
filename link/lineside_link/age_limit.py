"""How much is deleted by age at once: a clock that is ahead must not delete everything within a minute."""

from __future__ import annotations

import math

SWEEP_S = 60.0
"""Time between two sweeps."""

LEAST = 20
"""Files that a sweep may always delete."""

SHARE = 0.001
"""Share of all files that a sweep may delete: a clock that is ahead for an hour costs 6 % of them."""

DAY_S = 86_400


def most_by_age(count: int, days: float) -> int:
    """Returns how many files one sweep may delete because they are too old.

    At least twice as many as reach their age between two sweeps where they come at a steady rate.

    Args:
        count: Files that are kept.
        days: Age at which they are deleted.
    """
    return max(LEAST, math.ceil(SHARE * count), math.ceil(2 * count * SWEEP_S / (days * DAY_S)))
