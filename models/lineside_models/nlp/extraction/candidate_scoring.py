"""The calibrated probability that a candidate is right.

A value is scored by all that is known of its mentions (`FEATURES`): what the network says, what agrees with it, how
often and behind which words it stands. The model is logistic, with terms for each type, and fitted on documents
that the network was not trained on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lineside_models.nlp.extraction.candidates import SpanCandidate
from lineside_models.nlp.extraction.form_rules import FormRules
from lineside_models.nlp.extraction.indicators import indicator_features, indicators_of
from lineside_models.nlp.extraction.logistic import LogisticModel
from lineside_models.nlp.extraction.spans import Mention
from lineside_models.nlp.normalization.dates import parse_date
from lineside_models.nlp.normalization.values import QUOTES, clean, value_kind

Floats = npt.NDArray[np.float64]

FEATURES = (
    "score",
    "weakest",
    "begins",
    "outside",
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
    "shares_place",
    "of_its_type",
    "occurrences",
    "at_end",
    "line_break",
    "quoted",
    "listed",
    "behind_between",
    "aside",
    "behind_dated",
    "near_effective",
    "behind_this",
    "behind_governed",
)
"""Of a candidate, in the order of `features_of`."""

BY_TYPE = ("score", "best", "margin", "proposed", "ruled")
"""Features with a weight of their own for each type."""

LOGIT_MAX = 5.0

END_SHARE, END_CHARACTERS = 0.9, 4000
"""Where the signatures stand: the last tenth of a text, or its last characters."""

_LINE_BREAK = re.compile(r"\n|\s{2,}")
_LISTED = re.compile(r"(?:\b(?:between|among|by|and|as of)|[,;:&])\W*$", re.IGNORECASE)
_BETWEEN = re.compile(r"\b(?:between|among)\b", re.IGNORECASE)
_ASIDE = re.compile(
    r"\b(?:subsidiar|affiliate|division|parent|source|stock|shares|behalf|agent|laws)[a-z]*\W+(?:of|for)?\W*(?:the\W+)?$",
    re.IGNORECASE,
)
"""Words before a name that is mentioned, but does not take part."""

_DATED = re.compile(r"\b(?:dated?|entered|made|as of|executed)\b", re.IGNORECASE)
_EFFECTIVE = re.compile("effective", re.IGNORECASE)
_THIS = re.compile(r"\bthis\W+$", re.IGNORECASE)
_GOVERNED = re.compile("govern|construed|interpret", re.IGNORECASE)


def features_of(candidates: Sequence[SpanCandidate], text: str, types: Sequence[str]) -> Floats:
    """Returns the features ``(N, F)`` of all candidates of one document.

    Args:
        candidates: All of the document.
        types: The model's, in their order.
    """
    folded = text.casefold()
    rows = [[*_row(one, candidates, text), *_context(one, text, folded)] for one in candidates]
    basic = np.array(rows, np.float64).reshape(-1, len(FEATURES))
    columns = [FEATURES.index(name) for name in BY_TYPE]
    parts = [basic]
    for type_name in types:
        of_type = np.array([one.type == type_name for one in candidates], np.float64)[:, None]
        parts += [of_type, of_type * basic[:, columns]]
    return np.concatenate(parts, 1)


def reading_features(
    candidates: Sequence[SpanCandidate], text: str, types: Sequence[str], form: FormRules, indicators: Sequence[str]
) -> Floats:
    """Returns what a score rests on: `features_of`, and of a form the indicators of these names behind them."""
    features = features_of(candidates, text, types)
    if not indicators:
        return features
    found = indicators_of(candidates, text, types, form)
    return np.concatenate([features, indicator_features(found, indicators)], 1)


def shared_scores(types: Sequence[str], scores: Floats, absent: Mapping[str, float]) -> Floats:
    """Returns the scores of one document's candidates, of which at most one of a type is right.

    A model judges each candidate by itself, and gives all of them low scores in a form that it has not seen. Their odds
    are shared out: a low score is likely right if it is the only one.

    Args:
        absent: By type, the odds of no value. Scores of other types stay as they are.
    """
    limited = np.clip(scores, 1e-9, 1 - 1e-9)
    odds = limited / (1 - limited)
    shared: Floats = scores.copy()
    for name, none in absent.items():
        own = np.array([one == name for one in types], np.bool_)
        shared[own] = odds[own] / (none + odds[own].sum())
    return shared


def scored(
    candidates: Sequence[SpanCandidate], features: Floats, model: LogisticModel, absent: Mapping[str, float]
) -> list[SpanCandidate]:
    """Returns the candidates with calibrated scores, the likeliest first.

    Args:
        features: See `reading_features`.
        absent: See `shared_scores`.
    """
    if not candidates:
        return []
    scores = shared_scores([one.type for one in candidates], model(features), absent)
    found = [
        SpanCandidate(one.type, one.key, one.mentions, float(score))
        for one, score in zip(candidates, scores, strict=True)
    ]
    return sorted(found, key=lambda one: (-one.score, one.mentions[0].start))


def _row(one: SpanCandidate, others: Sequence[SpanCandidate], text: str) -> list[float]:
    """Returns what network, dictionary and rules say of a candidate and of those beside it."""
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
        _logit(best.begins),
        _logit(best.outside),
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
        float(np.log1p(sum(other.type == one.type and other.clearest.score > 0.5 for other in others))),
    ]


def _context(one: SpanCandidate, text: str, folded: str) -> list[float]:
    """Returns how often a candidate stands in the text, where, and behind which words."""
    best = one.clearest
    words = clean(text[best.start : best.end]).casefold()
    last = folded.rfind(words) if words else -1
    before, after = text[max(0, best.start - 80) : best.start], text[best.end : best.end + 60]
    return [
        float(np.log1p(folded.count(words))) if words else 0.0,
        float(last >= min(END_SHARE * len(folded), len(folded) - END_CHARACTERS)),
        float(_LINE_BREAK.search(text, best.start, best.end) is not None),
        float(before.rstrip()[-1:] in {*QUOTES} and after.lstrip(" ,.")[:1] in {*QUOTES}),
        float(_LISTED.search(before) is not None),
        float(any(_BETWEEN.search(text, max(0, place.start - 120), place.start) for place in one.mentions)),
        float(any(_ASIDE.search(text[max(0, place.start - 40) : place.start]) for place in one.mentions)),
        float(_DATED.search(before[-40:]) is not None),
        float(_EFFECTIVE.search(f"{before[-40:]} {after}") is not None),
        float(_THIS.search(before) is not None),
        float(_GOVERNED.search(text, max(0, best.start - 200), best.start) is not None),
    ]


def _overlap(one: Mention, other: Mention) -> bool:
    return one.start < other.end and other.start < one.end


def _logit(score: float) -> float:
    score = min(max(score, 1e-6), 1 - 1e-6)
    return float(np.clip(np.log(score / (1 - score)), -LOGIT_MAX, LOGIT_MAX))
