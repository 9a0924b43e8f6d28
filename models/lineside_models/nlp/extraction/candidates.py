"""Candidates: the values that mentions stand for, and the calibrated probability that each is right.

A value is scored by all that is known of its mentions (`FEATURES`), by a logistic model for all types with terms for
each type; it is fitted on documents that the network was not trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lineside_models.nlp.extraction.legal_terms import LegalTerms
from lineside_models.nlp.extraction.logistic import LogisticModel
from lineside_models.nlp.extraction.spans import Mention
from lineside_models.nlp.extraction.values import clean, name_key, parse_date, value_key, value_kind

Floats = npt.NDArray[np.float64]

FEATURES = (
    "score",
    "weakest",
    "mean",
    "mentions",
    "first",
    "best",
    "margin",
    "rivals",
    "proposed",
    "ruled",
    "unseen",
    "whole_date",
    "length",
    "capital",
    "upper",
    "inside_other",
    "holds_other",
    "paired",
)
"""Of a candidate, in the order of `features_of`."""

BY_TYPE = ("score", "best", "margin", "proposed", "ruled")
"""Features with a weight of their own for each type."""

LOGIT_MAX = 5.0


@dataclass(frozen=True, slots=True)
class SpanCandidate:
    """A value that a document may have.

    Attributes:
        type: Entity type.
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
    """Returns the values that mentions stand for."""
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


def features_of(candidates: Sequence[SpanCandidate], text: str, types: Sequence[str]) -> Floats:
    """Returns the features ``(N, F)`` of all candidates of one document.

    Args:
        types: The model's, in their order.
    """
    rows = [_row(one, candidates, text) for one in candidates]
    basic = np.array(rows, np.float64).reshape(-1, len(FEATURES))
    columns = [FEATURES.index(name) for name in BY_TYPE]
    parts = [basic]
    for type_name in types:
        of_type = np.array([one.type == type_name for one in candidates], np.float64)[:, None]
        parts += [of_type, of_type * basic[:, columns]]
    return np.concatenate(parts, 1)


def scored(
    candidates: Sequence[SpanCandidate], text: str, types: Sequence[str], model: LogisticModel
) -> list[SpanCandidate]:
    """Returns the candidates with calibrated scores, the likeliest first."""
    if not candidates:
        return []
    scores = model(features_of(candidates, text, types))
    found = [
        SpanCandidate(one.type, one.key, one.mentions, float(score))
        for one, score in zip(candidates, scores, strict=True)
    ]
    return sorted(found, key=lambda one: (-one.score, one.mentions[0].start))


def choose(candidates: Iterable[SpanCandidate], single: Sequence[str], least: float) -> list[SpanCandidate]:
    """Returns the candidates that are likely enough, of a type with one value only the likeliest."""
    chosen: list[SpanCandidate] = []
    seen: set[str] = set()
    for one in sorted(candidates, key=lambda each: -each.score):
        if one.score >= least and not (one.type in single and one.type in seen):
            chosen.append(one)
            seen.add(one.type)
    return chosen


def _row(one: SpanCandidate, others: Sequence[SpanCandidate], text: str) -> list[float]:
    best = one.clearest
    rivals = [other for other in others if other.type == one.type and other.key != one.key]
    highest = max((other.clearest.score for other in rivals), default=0.0)
    words = clean(text[best.start : best.end])
    letters = [letter for letter in words if letter.isalpha()]
    whole = value_kind(one.type) != "date" or parse_date(words) is not None
    same_places = [
        other
        for other in others
        if other.type != one.type and any(_overlap(mine, its) for mine in one.mentions for its in other.mentions)
    ]
    return [
        _logit(best.score),
        _logit(best.weakest),
        float(np.mean([mention.score for mention in one.mentions])),
        float(np.log1p(len(one.mentions))),
        float(np.log1p(one.mentions[0].start)),
        float(best.score >= highest),
        _logit(best.score) - _logit(highest),
        float(np.log1p(len(rivals))),
        float(any(mention.proposed for mention in one.mentions)),
        float(any(mention.ruled for mention in one.mentions)),
        float(all(mention.score == 0.0 for mention in one.mentions)),
        float(whole),
        float(np.log1p(len(words))),
        float(words[:1].isupper() or words[:1].isdigit()),
        sum(letter.isupper() for letter in letters) / max(1, len(letters)),
        float(any(one.key in other.key for other in rivals)),
        float(any(other.key in one.key for other in rivals)),
        float(bool(same_places)),
    ]


def _overlap(one: Mention, other: Mention) -> bool:
    return one.start < other.end and other.start < one.end


def _logit(score: float) -> float:
    score = min(max(score, 1e-6), 1 - 1e-6)
    return float(np.clip(np.log(score / (1 - score)), -LOGIT_MAX, LOGIT_MAX))


def key_of(type_name: str, text: str, terms: LegalTerms | None) -> str:
    """Returns the key under which a value is compared, the dictionary's normal form first."""
    return (terms.key(type_name, text) if terms is not None else None) or value_key(type_name, text) or name_key(text)
