"""What is fitted behind the network: calibrated scores, thresholds, and models of pairs.

All of it is fitted on train folds: scores on documents that the network was not trained on, in five folds by group, so
that thresholds are chosen on scores of documents that a scorer has not seen either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.nlp.document_sets.annotations import AnnotatedDocument
from lineside_models.nlp.extraction.candidate_scoring import reading_features, shared_scores
from lineside_models.nlp.extraction.candidates import SpanCandidate, choose
from lineside_models.nlp.extraction.indicators import indicators_of, is_layout
from lineside_models.nlp.extraction.logistic import LogisticModel, fit_logistic
from lineside_models.nlp.extraction.model_schema import ModelSchema
from lineside_models.nlp.extraction.reading import ACCEPTED_MAX, POSTPROCESS, Scorer, SpanReading, candidates_of
from lineside_models.nlp.extraction.relations import Place, pair_features
from lineside_models.nlp.extraction.spans import TokenProbabilities
from lineside_models.nlp.normalization.legal_terms import SHIPPED, LegalTerms
from lineside_models.nlp.normalization.values import value_key
from lineside_runtime.bundle import Postprocess

FOLDS = 5
SCORE_PENALTY, PAIR_PENALTY = 10.0, 5.0
INDICATOR_PENALTY, LAYOUT_PENALTY = 0.3, 3.0
"""Of indicators, which keep their scale; those of the layout say more of one form than of others. Chosen by the log
loss of receipts of the train fold, of other companies."""

ACCEPTED_PRECISION = 0.987
INDICATOR_GROUPS = 2
"""Groups of documents in which an indicator occurs: what one supplier's form alone says teaches nothing of others."""

LEAST_CHOICES = np.array([0.01, 0.02, *np.arange(0.05, 0.75, 0.025)])
"""Thresholds that are tried. Scores are lower where more candidates are proposed, so low thresholds are among them."""

ABSENT_CHOICES = tuple(10.0**power for power in range(-4, 2))
"""Odds of no value that are tried."""


class FittedReading(NamedTuple):
    """Post-processing of a network.

    Attributes:
        postprocess: Its name and parameters.
        f1: Of the values of the documents that it was fitted on, without a dictionary: each fold by a scorer that was
            fitted on the others.
        network_f1: The same of scores that use the network, whether it is used or not.
        uses_network: Whether it is used.
    """

    postprocess: Postprocess
    f1: float
    network_f1: float
    uses_network: bool


class _Scores(NamedTuple):
    """Scorers without and with a dictionary, what they rest on, and the F1 of the one without."""

    plain: Scorer
    with_terms: Scorer | None
    indicators: tuple[str, ...]
    network: bool
    f1: float


def fit_reading(
    schema: ModelSchema,
    held: Sequence[AnnotatedDocument],
    seen: Sequence[TokenProbabilities],
    *,
    trained: Sequence[AnnotatedDocument],
    name: str,
) -> FittedReading:
    """Fits the post-processing of a network.

    Where the schema proposes values of a form, scores are fitted without the network as well, and used if they are as
    good: with few documents a network may cost more than it gives.

    Args:
        held: Documents that it was not trained on.
        seen: What it says of each of them.
        trained: The others, whose annotated pairs are used too.
    """
    with_network = best = _fit_scores(schema, held, seen, name, network=True)
    if schema.line_breaks and schema.form.proposes:
        nothing = [TokenProbabilities((), (), schema.types)] * len(held)
        without = _fit_scores(schema, held, nothing, name, network=False)
        best = without if without.f1 >= with_network.f1 else with_network
    pairs = {
        name: model
        for name, relation in schema.relations.items()
        if relation.pairs and (model := fit_pairs(name, relation.head, relation.tail, (*trained, *held))) is not None
    }
    reading = SpanReading(
        schema=name,
        single=schema.single,
        relations={key: one for key, one in schema.relations.items() if not one.pairs or key in pairs},
        scorer=best.plain,
        scorer_terms=best.with_terms,
        pairs=pairs,
        patterns=schema.patterns,
        line_runs=schema.line_runs,
        cues=schema.cues,
        lexicon=schema.lexicon,
        indicators=best.indicators,
        network=best.network,
    )
    postprocess = Postprocess(name=POSTPROCESS, params=msgspec.to_builtins(reading))
    return FittedReading(postprocess, best.f1, with_network.f1, best.network)


def _fit_scores(
    schema: ModelSchema,
    held: Sequence[AnnotatedDocument],
    seen: Sequence[TokenProbabilities],
    name: str,
    *,
    network: bool,
) -> _Scores:
    found, found_terms = (
        [
            candidates_of(predicted, document.text, schema.types, terms, name, schema.form)
            for document, predicted in zip(held, seen, strict=True)
        ]
        for terms in (None, LegalTerms.open(SHIPPED))
    )
    indicators = shared_indicators(schema, held, found) if schema.line_breaks else ()
    plain, f1 = _fit_scorer(schema, held, found, indicators)
    with_terms = None if found_terms == found else _fit_scorer(schema, held, found_terms, indicators)[0]
    return _Scores(plain, with_terms, indicators, network, f1)


def shared_indicators(
    schema: ModelSchema, documents: Sequence[AnnotatedDocument], found: Sequence[Sequence[SpanCandidate]]
) -> tuple[str, ...]:
    """Returns the names of the indicators that candidates of `INDICATOR_GROUPS` groups of documents have."""
    groups: dict[str, set[str]] = {}
    for document, each in zip(documents, found, strict=True):
        sets = indicators_of(each, document.text, schema.types, schema.form)
        for name in {name for names in sets for name in names}:
            groups.setdefault(name, set()).add(document.group)
    return tuple(sorted(name for name, those in groups.items() if len(those) >= INDICATOR_GROUPS))


def _fit_scorer(
    schema: ModelSchema,
    documents: Sequence[AnnotatedDocument],
    found: Sequence[Sequence[SpanCandidate]],
    indicators: Sequence[str],
) -> tuple[Scorer, float]:
    """Returns a scorer, and the F1 of the values that it finds in each fold after it was fitted on the others."""
    features = [
        reading_features(each, document.text, schema.types, schema.form, indicators)
        for document, each in zip(documents, found, strict=True)
    ]
    right = [
        np.array([one.key in document.values.get(one.type, ()) for one in each], np.bool_)
        for document, each in zip(documents, found, strict=True)
    ]
    if not sum(len(each) for each in found):
        count = features[0].shape[1] if features else 0
        return Scorer(LogisticModel((0.0,) * count, (0.0,) * count, (1.0,) * count, bias=0.0)), 0.0
    folds = np.array([_fold(document.group) for document in documents])
    scores: list[npt.NDArray[np.float64]] = [np.zeros(len(each)) for each in found]
    for fold in set(folds.tolist()):
        others = [number for number in range(len(documents)) if folds[number] != fold and len(found[number])]
        model = _fit([features[number] for number in others], [right[number] for number in others], indicators)
        for number in np.flatnonzero(folds == fold).tolist():
            if len(found[number]) and model is not None:
                scores[number] = model(features[number])
    absent = _fit_absent(schema, found, right, scores) if schema.line_breaks else {}
    scores = [shared_scores([one.type for one in each], own, absent) for each, own in zip(found, scores, strict=True)]
    model = _fit(features, right, indicators)
    by_least = {float(least): _f1(schema, documents, found, scores, float(least)) for least in LEAST_CHOICES}
    least = max(by_least, key=by_least.__getitem__)
    if absent:
        # Half the F1 is best for calibrated scores (https://arxiv.org/abs/1402.1892); few documents choose worse.
        least = by_least[least] / 2
        by_least[least] = _f1(schema, documents, found, scores, least)
    scorer = Scorer(
        model=model or LogisticModel((), (), (), bias=0.0),
        least=round(least, 3),
        accepted=_accepted(schema, found, scores, least),
        absent=absent,
    )
    return scorer, by_least[least]


def _fit(
    features: Sequence[npt.NDArray[np.float64]], right: Sequence[npt.NDArray[np.bool_]], indicators: Sequence[str]
) -> LogisticModel | None:
    if not features:
        return None
    return fit_logistic(
        np.concatenate(features),
        np.concatenate(right),
        penalty=SCORE_PENALTY,
        indicator_penalties=[LAYOUT_PENALTY if is_layout(name) else INDICATOR_PENALTY for name in indicators],
    )


def _fit_absent(
    schema: ModelSchema,
    found: Sequence[Sequence[SpanCandidate]],
    right: Sequence[npt.NDArray[np.bool_]],
    scores: Sequence[npt.NDArray[np.float64]],
) -> dict[str, float]:
    """Returns the odds of no value of each type with one value: the likeliest ones, of scores of unseen documents."""
    absent = {}
    for name in schema.single:
        likelihoods = []
        for none in ABSENT_CHOICES:
            likelihood = 0.0
            for each, true, own in zip(found, right, scores, strict=True):
                types = [one.type for one in each]
                shared = shared_scores(types, own, {name: none})
                of_type = np.array([one == name for one in types], np.bool_)
                good = shared[of_type & true].sum()
                likelihood += float(np.log(max(good or 1 - shared[of_type].sum(), 1e-9)))
            likelihoods.append(likelihood)
        absent[name] = float(ABSENT_CHOICES[int(np.argmax(likelihoods))])
    return absent


def _fold(group: str) -> int:
    return int(hashlib.sha256(group.encode()).hexdigest(), 16) % FOLDS


def _chosen(
    schema: ModelSchema, found: Sequence[SpanCandidate], scores: npt.NDArray[np.float64], least: float
) -> list[SpanCandidate]:
    ranked = [
        SpanCandidate(one.type, one.key, one.mentions, float(score)) for one, score in zip(found, scores, strict=True)
    ]
    return choose(ranked, schema.single, least)


def _f1(
    schema: ModelSchema,
    documents: Sequence[AnnotatedDocument],
    found: Sequence[Sequence[SpanCandidate]],
    scores: Sequence[npt.NDArray[np.float64]],
    least: float,
) -> float:
    right = predicted = true = 0
    for document, each, own in zip(documents, found, scores, strict=True):
        chosen = _chosen(schema, each, own, least)
        right += sum(one.key in document.values.get(one.type, ()) for one in chosen)
        predicted += len(chosen)
        true += sum(len(document.values.get(label, ())) for label in schema.types)
    return 2 * right / max(1, predicted + true)


def _accepted(
    schema: ModelSchema,
    found: Sequence[Sequence[SpanCandidate]],
    scores: Sequence[npt.NDArray[np.float64]],
    least: float,
) -> float:
    """Returns the least score above which the mean score, the precision that is expected, is the wanted one.

    Thresholds at which the share of right values was the wanted one had a precision of 97.1 % on other documents, and
    one for each type 92.3 %: the errors among the surest values are too few to choose on. With the mean score it was
    100 %, at two thirds of the coverage (44 documents of CUAD's train fold, halved at random 200 times).
    """
    chosen = [_chosen(schema, each, own, least) for each, own in zip(found, scores, strict=True)]
    best, total = ACCEPTED_MAX, 0.0
    for count, score in enumerate(sorted((one.score for each in chosen for one in each), reverse=True), 1):
        total += score
        if total / count >= ACCEPTED_PRECISION:
            best = score
    return round(min(best, ACCEPTED_MAX), 4)


def fit_pairs(name: str, head: str, tail: str, documents: Sequence[AnnotatedDocument]) -> LogisticModel | None:
    """Fits a model of pairs on annotated mentions; ``None`` where none is annotated.

    Args:
        documents: Of train folds.
    """
    rows, right = [], []
    for document in documents:
        pairs, features = pair_features(places_in(document, head), places_in(document, tail), document.text)
        rows.append(features)
        right += [(name, one.key, other.key) in document.pairs for one, other in pairs]
    labels = np.array(right, np.bool_)
    if not labels.any():
        return None
    return fit_logistic(np.concatenate(rows), labels, penalty=PAIR_PENALTY)


def places_in(document: AnnotatedDocument, type_name: str) -> list[Place]:
    """Returns the annotated mentions of a type."""
    spans = [span for span in document.spans if span.type == type_name]
    return [Place(value_key(type_name, document.text[one.start : one.end]), one.start, one.end) for one in spans]
