"""From the logits of a token classifier to mentions in the text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.nlp.extraction.windows import TokenWindow

Floats = npt.NDArray[np.floating]

SURE = (0.5,)
"""Probability of being inside from which a token begins a mention, for what a network says by itself."""

LIKELY = (0.5, 0.2)
"""The same for candidates, which are scored by more than the network: unsure and longer mentions too."""

STAYS = 0.8
"""Share of that probability from which a token goes on with a mention."""

BRIDGE = 0.3
"""The same for one token between two that are surely inside, such as a comma before ``Inc.``."""

BEGINS = 0.7
"""Probability of beginning from which a token ends the mention before it."""

LENGTH_MIN = 3
"""Characters of a mention."""


class Mention(msgspec.Struct, frozen=True):
    """A place of the text that may hold a value.

    Attributes:
        start: Offset of its first character.
        end: Offset behind its last character.
        score: Mean probability of its tokens of being inside; 0 where the network does not see it.
        weakest: Least of these.
        proposed: Whether a dictionary proposes it.
        ruled: Whether a rule of the schema finds it.
        begins: Probability that its first token begins a mention.
        outside: Least probability of the tokens beside it of not going on with it.
    """

    type: str
    start: int
    end: int
    score: float
    weakest: float = 0.0
    proposed: bool = False
    ruled: bool = False
    begins: float = 0.0
    outside: float = 0.0


class TokenProbabilities:
    """A network's probabilities for the tokens of a text.

    Args:
        logits: ``(T, types, 3)`` of each window, outside, begin and inside; its padding may be longer.
        labels: Names of the types.
    """

    def __init__(self, windows: Sequence[TokenWindow], logits: Iterable[Floats], labels: Sequence[str]) -> None:
        pairs = zip(windows, logits, strict=True)
        self.windows, self._labels = windows, tuple(labels)
        self._tags = [softmax(values[1 : 1 + len(window.offsets)]) for window, values in pairs]

    def mentions(self, text: str, *, levels: Sequence[float] = SURE) -> list[Mention]:
        """Returns the mentions of the text, those that two windows share once.

        Args:
            text: That the windows were cut of.
            levels: `SURE` or `LIKELY`.
        """
        best: dict[tuple[str, int, int], Mention] = {}
        for window, tags in zip(self.windows, self._tags, strict=True):
            for (number, label), level in itertools.product(enumerate(self._labels), levels):
                for mention in _runs(tags[:, number], window.offsets, text, label, level):
                    key = (mention.type, mention.start, mention.end)
                    if key not in best or best[key].score < mention.score:
                        best[key] = mention
        return sorted(best.values(), key=lambda one: (one.start, one.end, one.type))

    def scored(self, mention: Mention) -> Mention:
        """Returns a mention with the scores of the surest window."""
        best = msgspec.structs.replace(mention, score=0.0, weakest=0.0)
        number = self._labels.index(mention.type)
        for window, tags in zip(self.windows, self._tags, strict=True):
            offsets = window.offsets
            if not len(offsets) or offsets[0, 0] > mention.start or offsets[-1, 1] < mention.end:
                continue
            first = int(np.searchsorted(offsets[:, 1], mention.start, side="right"))
            behind = int(np.searchsorted(offsets[:, 0], mention.end, side="left"))
            inside = 1 - tags[first:behind, number, 0]
            if not len(inside) or (score := float(inside.mean())) <= best.score:
                continue
            begins = float(tags[first, number, 1])
            before = (1 - float(tags[first - 1, number, 0])) * (1 - begins) if first else 0.0
            after = float(tags[behind, number, 2]) if behind < len(tags) else 0.0
            best = msgspec.structs.replace(
                best, score=score, weakest=float(inside.min()), begins=begins, outside=1 - max(before, after)
            )
        return best


def softmax(logits: Floats) -> Floats:
    """Returns probabilities over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    shares: Floats = powers / powers.sum(-1, keepdims=True)
    return shares


def _runs(tags: Floats, offsets: npt.NDArray[np.int64], text: str, label: str, level: float) -> Iterable[Mention]:
    """Yields the runs of tokens ``(T, 3)`` that are more likely inside than outside."""
    inside = 1 - tags[:, 0]
    at, count = 0, len(inside)
    while at < count:
        if inside[at] < level:
            at += 1
            continue
        first = at
        at += 1
        while at < count and _goes_on(tags, inside, offsets, at, level):
            at += 1
        start, end = _whole_words(text, int(offsets[first, 0]), int(offsets[at - 1, 1]))
        if end - start >= LENGTH_MIN:
            values = inside[first:at]
            yield Mention(label, start, end, float(values.mean()), float(values.min()))


def _goes_on(tags: Floats, inside: Floats, offsets: npt.NDArray[np.int64], at: int, level: float) -> bool:
    apart = bool(offsets[at, 0] > offsets[at - 1, 1])
    if apart and tags[at, 1] > BEGINS:
        return False
    if inside[at] >= STAYS * level:
        return True
    return bool(
        inside[at] >= BRIDGE * level
        and at + 1 < len(inside)
        and inside[at + 1] >= level
        and offsets[at + 1, 0] - offsets[at - 1, 1] <= 4
    )


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    while start > 0 and text[start - 1].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum():
        end += 1
    return start, end
