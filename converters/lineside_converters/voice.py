"""How the converters say what they are doing: a line for each step, and a count for what takes longer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Say = Callable[[str], None]
Count = Callable[[str, int, int], None]
_Item = TypeVar("_Item")


def _nothing(what: str, done: int, total: int) -> None:
    """Whoever asked for no counts gets none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Voice:
    """What is told of a run.

    Attributes:
        say: Told in words what was done.
        count: Told how much of what is done: a name, how many, of how many.
    """

    say: Say
    count: Count = _nothing

    def through(self, items: Sequence[_Item], what: str) -> Iterator[_Item]:
        """Goes through the items and counts them."""
        yield from self.counted(items, len(items), what)

    def counted(self, items: Iterable[_Item], total: int, what: str) -> Iterator[_Item]:
        """Goes through so many items and counts them."""
        for number, item in enumerate(items):
            self.count(what, number, total)
            yield item
        self.count(what, total, total)
