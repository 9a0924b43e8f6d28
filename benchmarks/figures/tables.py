"""Markdown tables and the forms of numbers in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.figures.results import Value


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


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


def between(low: str, high: str) -> str:
    """Returns the ends of an interval."""
    return f"{low} to {high}"


def spread(value: Value) -> str:
    """Returns the median of a spread, and in brackets its 5th and 95th percentile."""
    low, middle, high = (significant(value[name].number) for name in ("p5", "p50", "p95"))
    return f"{middle} ({low} to {high})"


def verdict(reached: bool) -> str:
    """Says whether a bar was reached."""
    return "reached" if reached else "**missed**"


def megabytes(size: Value) -> float:
    """Returns bytes as megabytes."""
    return size.number / 1e6
