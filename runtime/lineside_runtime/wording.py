"""Counts and names in messages."""

from __future__ import annotations

from collections.abc import Iterable


def counted(count: int, noun: str, plural: str = "") -> str:
    """Returns a count with its noun, such as ``1 frame`` and ``2 frames``.

    Args:
        noun: In the singular.
        plural: The noun with an ``s`` if not given.
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns the known name that somebody who mistyped may have meant; empty if none is near."""
    import difflib  # only who mistypes pays for it

    return next(iter(difflib.get_close_matches(word, list(known), n=1)), "")
