"""How well values and relations were found: F1 with an interval over documents, precision against coverage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.nlp.document_sets.annotations import AnnotatedDocument
from lineside_models.nlp.extraction.candidates import SpanCandidate
from lineside_models.nlp.extraction.reading import FoundRelation

Counts = npt.NDArray[np.int64]
"""``(documents, 3)``: right, false, missed."""

RESAMPLES = 2000
SEED = 7
PRECISION_WANTED = 0.987


class F1Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Precision, recall and F1 over all values of all documents.

    Attributes:
        low: Lower end of the 95 % interval of F1, documents drawn with replacement.
        high: Upper end.
        right: Values found that are true.
        false: Values found that are not.
        missed: True values that were not found.
    """

    f1: float
    precision: float
    recall: float
    low: float
    high: float
    right: int
    false: int
    missed: int


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """Precision of the surest values.

    Attributes:
        coverage: Values that are accepted, as a share of all values that are true.
        precision: Share of them that is right.
        score: Least score that is accepted.
    """

    coverage: float
    precision: float
    score: float


def count_values(
    documents: Sequence[AnnotatedDocument], found: Sequence[Sequence[SpanCandidate]], types: Iterable[str]
) -> Counts:
    """Returns right, false and missed values of some types for each document."""
    names = list(types)
    rows = []
    for document, values in zip(documents, found, strict=True):
        predicted = {(one.type, one.key) for one in values if one.type in names}
        true = {(name, key) for name in names for key in document.values.get(name, ())}
        rows.append((len(predicted & true), len(predicted - true), len(true - predicted)))
    return np.array(rows, np.int64).reshape(-1, 3)


def count_relations(
    documents: Sequence[AnnotatedDocument],
    found: Sequence[Sequence[FoundRelation]],
    tails: Mapping[str, str],
) -> Counts:
    """Returns right, false and missed relations for each document.

    Args:
        tails: Of relations whose head is the document itself, the type of the tail by the relation's name: true are all
            values of that type. Of the others, the annotated pairs are.
    """
    rows = []
    for document, relations in zip(documents, found, strict=True):
        predicted = {(one.type, "" if one.type in tails else one.head[1], one.tail[1]) for one in relations}
        true = {(name, "", key) for name, tail in tails.items() for key in document.values.get(tail, ())}
        true |= document.pairs
        rows.append((len(predicted & true), len(predicted - true), len(true - predicted)))
    return np.array(rows, np.int64).reshape(-1, 3)


def f1_figures(counts: Counts) -> F1Figures:
    """Returns the figures of counts by document."""
    right, false, missed = (int(total) for total in counts.sum(0))
    rng = np.random.default_rng(SEED)
    drawn = counts[rng.integers(0, len(counts), (RESAMPLES, len(counts)))].sum(1)
    low, high = np.percentile(_f1(drawn), (2.5, 97.5))
    return F1Figures(
        f1=float(_f1(counts.sum(0, keepdims=True))[0]),
        precision=right / max(1, right + false),
        recall=right / max(1, right + missed),
        low=float(low),
        high=float(high),
        right=right,
        false=false,
        missed=missed,
    )


def _f1(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    right, false, missed = counts[:, 0], counts[:, 1], counts[:, 2]
    shares: npt.NDArray[np.float64] = 2 * right / np.maximum(1, 2 * right + false + missed)
    return shares


def document_scores(counts: Counts) -> list[float]:
    """Returns the F1 of each document; 1 where nothing is true and nothing was found."""
    empty = counts.sum(1) == 0
    return [float(one) for one in np.where(empty, 1.0, _f1(counts))]


def precision_curve(
    documents: Sequence[AnnotatedDocument], found: Sequence[Sequence[SpanCandidate]], types: Iterable[str]
) -> list[CurvePoint]:
    """Returns the precision at each coverage, from the surest value on."""
    names = list(types)
    true = sum(len(document.values.get(name, ())) for document in documents for name in names)
    answers = sorted(
        (
            (one.score, one.key in document.values.get(one.type, ()))
            for document, values in zip(documents, found, strict=True)
            for one in values
            if one.type in names
        ),
        key=lambda answer: -answer[0],
    )
    points, right = [], 0
    for count, (score, correct) in enumerate(answers, 1):
        right += correct
        points.append(CurvePoint(coverage=count / max(1, true), precision=right / count, score=score))
    return points


def coverage_at(points: Sequence[CurvePoint]) -> CurvePoint | None:
    """Returns the largest coverage at a precision of `PRECISION_WANTED`; ``None`` if there is none."""
    good = [point for point in points if point.precision >= PRECISION_WANTED]
    return good[-1] if good else None
