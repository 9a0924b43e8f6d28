"""Candidates: the values that mentions stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lineside_models.nlp.extraction.spans import Mention
from lineside_models.nlp.normalization.legal_terms import LegalTerms
from lineside_models.nlp.normalization.values import value_key


@dataclass(frozen=True, slots=True)
class SpanCandidate:
    """A value that a document may have.

    Attributes:
        key: See `value_key`.
        mentions: Where it stands, in the order of the text.
        score: Calibrated probability that it is right.
    """

    type: str
    key: str
    mentions: tuple[Mention, ...]
    score: float = 0.0

    @property
    def clearest(self) -> Mention:
        """The mention with the highest score, the first of several."""
        return max(self.mentions, key=lambda one: (round(one.score, 3), -one.start))


def propose(text: str, parts: Iterable[tuple[int, int]], terms: LegalTerms, types: Sequence[str]) -> list[Mention]:
    """Returns the mentions that a dictionary proposes in parts of a text."""
    found = {
        (type_name, start, end)
        for begin, stop in parts
        for type_name, start, end in terms.propose(text, begin, stop)
        if type_name in types
    }
    return [Mention(*one, score=0.0, proposed=True) for one in sorted(found)]


def gather(mentions: Iterable[Mention], text: str, terms: LegalTerms | None = None) -> list[SpanCandidate]:
    """Returns the values of mentions."""
    found: dict[tuple[str, str], list[Mention]] = {}
    for mention in mentions:
        words = text[mention.start : mention.end]
        key = (terms.key(mention.type, words) if terms is not None else None) or value_key(mention.type, words)
        if key:
            found.setdefault((mention.type, key), []).append(mention)
    return [
        SpanCandidate(type_name, key, tuple(sorted(places, key=lambda one: (one.start, one.end))))
        for (type_name, key), places in found.items()
    ]


def choose(candidates: Iterable[SpanCandidate], single: Sequence[str], least: float) -> list[SpanCandidate]:
    """Returns the candidates that are likely enough, of a type with one value only the likeliest."""
    chosen: list[SpanCandidate] = []
    seen: set[str] = set()
    for one in sorted(candidates, key=lambda each: -each.score):
        if one.score >= least and not (one.type in single and one.type in seen):
            chosen.append(one)
            seen.add(one.type)
    return chosen
