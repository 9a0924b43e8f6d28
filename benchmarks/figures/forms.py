"""Forms of numbers in tables."""

from __future__ import annotations

from collections.abc import Sequence


def fixed(value: float, digits: int) -> str:
    """Returns a number with so many decimals, with a minus sign and commas between thousands."""
    return f"{value:,.{digits}f}".replace("-", "−")


def significant(value: float) -> str:
    """Returns a number with three significant digits."""
    size = abs(value)
    return fixed(value, 0 if size >= 100 or not size else 1 if size >= 10 else 2 if size >= 1 else 3)


def signed(value: float, digits: int) -> str:
    """Returns a number with its sign."""
    return ("+" if value > 0 else "") + fixed(value, digits)


def percent(share: float, digits: int = 1) -> str:
    """Returns a share as per cent."""
    return f"{fixed(100 * share, digits)} %"


def times(ratio: float) -> str:
    """Returns a ratio."""
    return f"{significant(ratio)} ×"


def spread(mean: float, sd: float, each: Sequence[float]) -> str:
    """Returns a mean of several seeds, its standard deviation and the value of each seed."""
    return f"{fixed(mean, 3)} ± {fixed(sd, 3)} ({', '.join(fixed(one, 3) for one in each)})"
