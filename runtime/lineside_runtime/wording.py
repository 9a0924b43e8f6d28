"""Counts in messages."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """Returns a count with its noun, such as ``1 frame`` and ``2 frames``.

    Args:
        noun: In the singular.
        plural: The noun with an ``s`` if not given.
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"
