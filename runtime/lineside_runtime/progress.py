"""Listeners of long work."""

from __future__ import annotations

from collections.abc import Callable

TextListener = Callable[[str], None]
"""Told in words what is done."""

CountListener = Callable[[int, int], None]
"""Told how much is done, and of how much."""
