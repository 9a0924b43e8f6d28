"""Pairs of mentions that belong together, such as a party and its alias: features of a pair, and the model on them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lineside_models.nlp.extraction.logistic import LogisticModel
from lineside_models.nlp.normalization.values import name_key

Floats = npt.NDArray[np.float64]

FAR = 3000
"""Characters between two mentions, from which they count as equally far."""

PAIR_MIN = 0.5
"""Probability from which a pair is a relation."""

_SMALL = {"the", "of", "and", "a", "an", "for", "in", "de"}
_COLLECTIVE = re.compile(r"collectiv|together|jointly|each of|\beach\b|both|affiliates|subsidiar", re.I)
_WORD = re.compile(r"[A-Za-z0-9]+")
_QUOTED = re.compile('["“”][^"“”]{1,60}["“”]')

FEATURES = (
    "gap",
    "between",
    "heads_between",
    "tails_between",
    "nearest",
    "behind",
    "parenthesis",
    "semicolons",
    "paragraphs",
    "collective",
    "alike",
    "acronym",
    "more_alike",
    "others_alike",
    "quoted_between",
    "first_tail",
    "order",
)
"""Of a pair, in the order of `pair_features`."""


@dataclass(frozen=True, slots=True)
class Place:
    """A mention of a value.

    Attributes:
        start: Offset of its first character.
        end: Offset behind its last character.
    """

    key: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two mentions, by their values' keys, with the probability that they belong together."""

    head: Place
    tail: Place
    score: float


def link(heads: Sequence[Place], tails: Sequence[Place], text: str, model: LogisticModel) -> list[Pair]:
    """Returns for every value of the tails the heads that it belongs to: the likeliest, and others that are likely.

    Args:
        heads: Mentions of the values that have tails.
    """
    candidates, features = pair_features(heads, tails, text)
    if not candidates:
        return []
    scores = model(features)
    best: dict[tuple[str, str], Pair] = {}
    for (head, tail), score in zip(candidates, scores, strict=True):
        key = (head.key, tail.key)
        if score >= PAIR_MIN and (key not in best or best[key].score < score):
            best[key] = Pair(head, tail, float(score))
    return list(best.values())


def pair_features(
    heads: Sequence[Place], tails: Sequence[Place], text: str
) -> tuple[list[tuple[Place, Place]], Floats]:
    """Returns the pairs of values, each by its nearest mentions, and their features ``(N, F)``.

    A head that has the same key as the tail is none: ``"Acme"`` is not an alias of itself.
    """
    by_head, by_tail = _by_key(heads), _by_key(tails)
    pairs: list[tuple[Place, Place]] = []
    rows: list[list[float]] = []
    for tail_key, tail_places in by_tail.items():
        likeness = {key: _likeness(key, places, tail_places[0], text) for key, places in by_head.items()}
        for head_key, head_places in by_head.items():
            if head_key == tail_key:
                continue
            head, tail = min(((h, t) for h in head_places for t in tail_places), key=lambda pair: _gap(*pair))
            pairs.append((head, tail))
            rows.append(_row(head, tail, heads, tails, text, likeness))
    return pairs, np.array(rows, np.float64).reshape(-1, len(FEATURES))


def _by_key(places: Sequence[Place]) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for place in sorted(places, key=lambda one: one.start):
        found.setdefault(place.key, []).append(place)
    return found


def _gap(head: Place, tail: Place) -> float:
    """Returns the characters between two mentions; a head behind its tail is three times as far."""
    return tail.start - head.end if head.start <= tail.start else 3 * (head.start - tail.end) + 100


def _row(
    head: Place,
    tail: Place,
    heads: Sequence[Place],
    tails: Sequence[Place],
    text: str,
    likeness: Mapping[str, tuple[float, float]],
) -> list[float]:
    low, high = sorted((head, tail), key=lambda one: one.start)
    begin, end = min(low.end, high.start), high.start
    between = text[begin:end][:FAR]
    heads_between = {one.key for one in heads if begin <= one.start and one.end <= end} - {head.key}
    tails_between = {one.key for one in tails if begin <= one.start and one.end <= end} - {tail.key}
    before = [one for one in heads if one.end <= tail.start and one.key != tail.key]
    nearest = bool(before) and max(before, key=lambda one: one.end).key == head.key
    alike, acronym = likeness[head.key]
    others = [max(values) for key, values in likeness.items() if key != head.key]
    opened = between.rfind("(")
    order = sorted({one.key: one.start for one in reversed(heads)}.items(), key=lambda item: item[1])
    tail_order = sorted({one.key: one.start for one in reversed(tails)}.items(), key=lambda item: item[1])
    head_number = [key for key, _ in order].index(head.key)
    tail_number = [key for key, _ in tail_order].index(tail.key)
    return [
        float(np.log1p(min(max(0.0, _gap(head, tail)), FAR))),
        float(min(len(between), FAR) < 150),
        float(min(len(heads_between), 4)),
        float(min(len(tails_between), 4)),
        float(nearest),
        float(head.start > tail.start),
        float(opened >= 0 and ")" not in between[opened:]),
        float(min(between.count(";"), 3)),
        float(min(between.count("\n\n"), 3)),
        float(_COLLECTIVE.search(text[max(0, tail.start - 60) : tail.start]) is not None),
        alike,
        acronym,
        float(max(alike, acronym) > max(others, default=0.0)),
        max(others, default=0.0),
        float(min(len(_QUOTED.findall(between)), 4)),
        float(not any(one.key != tail.key and head.end <= one.start < tail.start for one in tails)),
        float(head_number == tail_number),
    ]


def _likeness(key: str, places: Sequence[Place], tail: Place, text: str) -> tuple[float, float]:
    """Returns how much of the tail's letters begin the head's words, and whether it is their initials, each 0 to 1."""
    words = _WORD.findall(text[places[0].start : places[0].end].lower())
    wanted = name_key(text[tail.start : tail.end])
    if not wanted or not words:
        return 0.0, 0.0
    shared = sum(len(word) for word in _WORD.findall(text[tail.start : tail.end].lower()) if word in words)
    alike = max(shared / len(wanted), float(key.startswith(wanted)), 0.7 * float(len(wanted) > 3 and wanted in key))
    initials = "".join(word[0] for word in words)
    small = "".join(word[0] for word in words if word not in _SMALL)
    acronym = len(wanted) >= 2 and (initials.startswith(wanted) or small.startswith(wanted))
    return min(1.0, alike), float(acronym)
