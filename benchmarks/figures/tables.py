"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Row = str | Sequence[str]
"""Cells, or a line of Markdown: ``first | second``."""


def table(head: Row, rows: Iterable[Row]) -> str:
    """Returns a Markdown table."""
    lines = [line if isinstance(line, str) else " | ".join(line) for line in (head, *rows)]
    rule = " | ".join(["---"] * len(lines[0].split(" | ")))
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))


def between(low: str, high: str) -> str:
    """Returns the ends of an interval."""
    return f"{low} to {high}"


def verdict(reached: bool) -> str:
    """Says whether a bar was reached."""
    return "reached" if reached else "**missed**"
