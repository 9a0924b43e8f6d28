"""Evaluation of document bundles: F1 of values and relations, and how sure an answer must be to be right."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lineside_converters.evaluation.bundle_accuracy import EvaluationFacts, facts_of
from lineside_converters.evaluation.frame_tasks import run_in_tasks
from lineside_converters.evaluation.request import EvaluationRequest
from lineside_converters.reports.report_parts import ReportStruct
from lineside_models.inspection import Timings
from lineside_models.nlp.document_sets.annotations import AnnotatedDocument
from lineside_models.nlp.document_sets.loading import load_documents
from lineside_models.nlp.document_sets.scoring import (
    Counts,
    CurvePoint,
    F1Figures,
    count_relations,
    count_values,
    coverage_at,
    f1_figures,
    precision_curve,
)
from lineside_models.nlp.extraction.candidates import SpanCandidate
from lineside_models.nlp.extraction.contract_parser import SpanExtractor, open_extractor
from lineside_models.nlp.extraction.model_schema import RelationType
from lineside_models.nlp.extraction.reading import FoundRelation
from lineside_models.nlp.normalization.legal_terms import SHIPPED, LegalTerms
from lineside_runtime.errors import DatasetError
from lineside_runtime.progress import CountListener
from lineside_runtime.session import Session

CURVE_POINTS = 40
FOLDS = ("train", "val")

Reader = Callable[[str], tuple[list[SpanCandidate], list[FoundRelation]]]
"""Values and relations of a text."""


class TypeF1(ReportStruct, frozen=True, kw_only=True):
    """Figures of one entity type."""

    precision: float
    recall: float
    f1: float
    support: int


class DocumentEvaluation(EvaluationFacts, frozen=True, kw_only=True):
    """Figures of a document bundle on one fold.

    Attributes:
        values: F1 over all values of all types, documents drawn with replacement for the interval.
        relations: F1 of relations between values that the bundle has found itself; of a relation whose head is the
            document's title, the tail alone is compared, as a document has one.
        coverage: Largest coverage at a precision of 98.7 %; ``None`` if none reaches it.
        accepted: Precision and coverage at the bundle's own threshold for what needs no review.
        curve: Precision against coverage, from the surest value on.
        legal_terms: Whether the shipped dictionary of terms was used.
    """

    task: str = "spans"
    documents: int
    values: F1Figures
    relations: F1Figures
    per_class: dict[str, TypeF1]
    coverage: CurvePoint | None
    accepted: CurvePoint | None
    curve: tuple[CurvePoint, ...]
    legal_terms: bool = True


def judge_documents(session: Session, root: Path, request: EvaluationRequest) -> DocumentEvaluation:
    """Evaluates a document bundle on annotated documents, with the shipped dictionary of terms."""
    request.refuse_detector_options("a document bundle")
    documents = read_fold(root, request.fold)[: request.max_frames]
    if not documents:
        raise DatasetError(f"{root.name} has no documents in fold {request.fold!r}", expected="at least one", actual=0)
    read = run_in_tasks(session, _read, documents, request.tasks, request.on_progress)
    extractor = open_extractor(session)
    accepted = extractor.reading.scorer_for(LegalTerms.open(SHIPPED)).accepted
    timings = [timing for _, timing in read]
    return DocumentEvaluation(
        **facts_of(session, root.name, request.fold, timings, [session.used_device], workers=request.tasks.workers),
        documents=len(documents),
        **figures(documents, [found for found, _ in read], extractor, accepted),
    )


def _read(
    session: Session, documents: Sequence[AnnotatedDocument], on_progress: CountListener | None
) -> list[tuple[tuple[list[SpanCandidate], list[FoundRelation]], Timings]]:
    extractor, terms = open_extractor(session), LegalTerms.open(SHIPPED)
    extractor.read(documents[0].text, terms)  # the first one also warms up
    read = []
    for number, document in enumerate(documents, 1):
        began = time.perf_counter()
        found = extractor.read(document.text, terms)
        total = 1e3 * (time.perf_counter() - began)
        read.append((found, Timings(preprocess_ms=0.0, inference_ms=total, postprocess_ms=0.0)))
        if on_progress is not None:
            on_progress(number, len(documents))
    return read


def read_fold(root: Path, fold: str) -> tuple[AnnotatedDocument, ...]:
    """Returns the documents of a fold; ``all`` for every one."""
    names = FOLDS if fold == "all" else (fold,)
    found = {document.name: document for name in names for document in load_documents(root, name)}
    return tuple(found.values())


def figures(
    documents: Sequence[AnnotatedDocument],
    found: Sequence[tuple[list[SpanCandidate], list[FoundRelation]]],
    extractor: SpanExtractor,
    accepted: float,
) -> dict[str, Any]:
    """Returns the figures of what was found in documents, as fields of `DocumentEvaluation`."""
    types = [name for name in extractor.types if any(document.values.get(name) for document in documents)]
    values = [one for one, _ in found]
    curve = precision_curve(documents, values, types)
    sure = [point for point in curve if point.score >= accepted]
    return {
        "values": f1_figures(count_values(documents, values, types)),
        "relations": f1_figures(
            count_relations(documents, [one for _, one in found], tails_of(extractor.reading.relations))
        ),
        "per_class": {name: _of_type(count_values(documents, values, [name])) for name in types},
        "coverage": coverage_at(curve),
        "accepted": sure[-1] if sure else None,
        "curve": tuple(_thinned(curve)),
    }


def tails_of(relations: Mapping[str, RelationType]) -> dict[str, str]:
    """Returns the type of the tail of each relation whose head is the document."""
    return {name: one.tail for name, one in relations.items() if not one.pairs}


def _of_type(counts: Counts) -> TypeF1:
    one = f1_figures(counts)
    return TypeF1(precision=one.precision, recall=one.recall, f1=one.f1, support=one.right + one.missed)


def _thinned(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    if not curve:
        return []
    numbers = np.unique(np.linspace(0, len(curve) - 1, CURVE_POINTS).round().astype(int))
    return [curve[number] for number in numbers.tolist()]
