"""How the outputs of a document model become values and relations: the parameters of the post-processing ``spans``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from lineside_models.nlp.extraction.candidate_scoring import reading_features, scored
from lineside_models.nlp.extraction.candidates import SpanCandidate, choose, gather, propose
from lineside_models.nlp.extraction.contract_rules import RULES
from lineside_models.nlp.extraction.form_rules import FormRules
from lineside_models.nlp.extraction.indicators import check_indicators
from lineside_models.nlp.extraction.logistic import LogisticModel
from lineside_models.nlp.extraction.model_schema import RelationType
from lineside_models.nlp.extraction.relations import Pair, Place, link
from lineside_models.nlp.extraction.spans import LIKELY, Mention, TokenProbabilities
from lineside_models.nlp.normalization.legal_terms import LegalTerms
from lineside_models.nlp.normalization.values import value_kind
from lineside_runtime.errors import BundleFormatError

POSTPROCESS = "spans"
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

ACCEPTED_MAX = 0.999
"""Score that is accepted where no threshold reaches the precision that is asked for."""

EVIDENCE_MAX = 300
"""Characters of a relation's evidence."""


class Scorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Calibrated probability of a value, and what follows from it.

    Attributes:
        model: On `lineside_models.nlp.extraction.candidate_scoring.features_of`.
        least: Probability from which a value is reported.
        accepted: Probability from which a value needs no review.
        absent: Of a form, by type with one value a document, the odds of no value: see
            `lineside_models.nlp.extraction.candidate_scoring.shared_scores`.
    """

    model: LogisticModel
    least: Share = 0.5
    accepted: Share = 0.95
    absent: dict[str, float] = {}


class SpanReading(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Parameters of the post-processing ``spans``.

    Attributes:
        schema: Name of the schema that it was trained for.
        single: Types of which a document has one value.
        relations: Relations by name.
        scorer: Without a dictionary of terms.
        scorer_terms: With one; ``None`` for the same.
        pairs: Models of the relations whose heads have tails of their own, by name.
        patterns: See `FormRules`.
        line_runs: See there.
        cues: See there.
        lexicon: See there.
        indicators: Names of the indicators that the scorer's model is given behind the other features; see
            `lineside_models.nlp.extraction.indicators`. None for running text.
        network: Whether candidates and scores use the network; otherwise it does not run.
    """

    schema: str
    single: tuple[str, ...]
    relations: dict[str, RelationType]
    scorer: Scorer
    scorer_terms: Scorer | None = None
    pairs: dict[str, LogisticModel] = {}
    patterns: dict[str, tuple[str, ...]] = {}
    line_runs: dict[str, int] = {}
    cues: dict[str, str] = {}
    lexicon: dict[str, tuple[str, ...]] = {}
    indicators: tuple[str, ...] = ()
    network: bool = True

    def __post_init__(self) -> None:
        self.form.check()
        check_indicators(self.indicators, self.form)

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> SpanReading:
        """Reads the parameters of a manifest.

        Raises:
            BundleFormatError: They are others.
        """
        try:
            return msgspec.convert(dict(params), cls)
        except msgspec.ValidationError as error:
            raise BundleFormatError(f"postprocess.params of a document bundle: {error}") from error

    @property
    def form(self) -> FormRules:
        """What the schema said of forms."""
        return FormRules(self.patterns, self.line_runs, self.cues, self.lexicon)

    def scorer_for(self, terms: LegalTerms | None) -> Scorer:
        """Returns the scorer for readings with or without a dictionary."""
        return self.scorer_terms or self.scorer if terms is not None else self.scorer


class FoundRelation(msgspec.Struct, frozen=True):
    """A relation between two values.

    Attributes:
        head: Type and key of the first.
        tail: Type and key of the second.
        score: Probability that it is right.
        begin: Where the text that states it begins.
    """

    type: str
    head: tuple[str, str]
    tail: tuple[str, str]
    score: float
    begin: int
    end: int


def candidates_of(
    seen: TokenProbabilities,
    text: str,
    types: Sequence[str],
    terms: LegalTerms | None,
    schema: str = "",
    form: FormRules | None = None,
) -> list[SpanCandidate]:
    """Returns the values that the network, the dictionary, or rules of the schema propose, not scored yet.

    Each place has the network's probabilities, whoever proposes it. Without a dictionary no rule proposes a law.
    """
    found = seen.mentions(text, levels=LIKELY)
    found += [Mention(*place, score=0.0, ruled=True) for place in (form or FormRules()).places(text, types)]
    if schema in RULES:
        known = [one for one in RULES[schema](text, terms) if terms is not None or value_kind(one.type) != "law"]
        found += [msgspec.structs.replace(one, ruled=True) for one in known if one.type in types]
    if terms is not None:
        parts = [(int(one.offsets[0, 0]), int(one.offsets[-1, 1])) for one in seen.windows if len(one.offsets)]
        found += propose(text, parts, terms, types)
    return gather([seen.scored(one) for one in found], text, terms)


def read_values(
    candidates: Sequence[SpanCandidate], text: str, types: Sequence[str], reading: SpanReading, terms: LegalTerms | None
) -> list[SpanCandidate]:
    """Returns the values that a document has, with their scores."""
    scorer = reading.scorer_for(terms)
    try:
        features = reading_features(candidates, text, types, reading.form, reading.indicators)
        ranked = scored(candidates, features, scorer.model, scorer.absent)
    except ValueError as error:
        raise BundleFormatError(f"postprocess.params of a document bundle: {error}") from error
    return choose(ranked, reading.single, scorer.least)


def read_relations(values: Sequence[SpanCandidate], text: str, reading: SpanReading) -> list[FoundRelation]:
    """Returns the relations between the values of a document."""
    found: list[FoundRelation] = []
    for name, relation in reading.relations.items():
        heads = [one for one in values if one.type == relation.head]
        tails = [one for one in values if one.type == relation.tail]
        if not heads or not tails:
            continue
        if relation.pairs:
            found += _paired(name, heads, tails, text, reading)
        else:
            found += [_of_document(name, heads[0], tail) for tail in tails]
    return found


def _paired(
    name: str, heads: Sequence[SpanCandidate], tails: Sequence[SpanCandidate], text: str, reading: SpanReading
) -> list[FoundRelation]:
    model = reading.pairs.get(name)
    if model is None:
        raise BundleFormatError(f"postprocess.params: no pair model for the relation {name!r}")
    try:
        pairs = link(places_of(heads), places_of(tails), text, model)
    except ValueError as error:
        raise BundleFormatError(f"postprocess.params of a document bundle: {error}") from error
    scores = {(one.type, one.key): one.score for one in (*heads, *tails)}
    return [_of_pair(name, heads[0].type, tails[0].type, pair, scores) for pair in pairs]


def _of_pair(
    name: str, head_type: str, tail_type: str, pair: Pair, scores: Mapping[tuple[str, str], float]
) -> FoundRelation:
    head, tail = (head_type, pair.head.key), (tail_type, pair.tail.key)
    score = pair.score * scores[head] * scores[tail]
    begin, end = min(pair.head.start, pair.tail.start), max(pair.head.end, pair.tail.end)
    return FoundRelation(name, head, tail, score, begin, end)


def _of_document(name: str, head: SpanCandidate, tail: SpanCandidate) -> FoundRelation:
    place = tail.clearest
    return FoundRelation(
        name, (head.type, head.key), (tail.type, tail.key), head.score * tail.score, place.start, place.end
    )


def places_of(values: Iterable[SpanCandidate]) -> list[Place]:
    """Returns where values stand."""
    return [Place(one.key, mention.start, mention.end) for one in values for mention in one.mentions]


def evidence(text: str, begin: int, end: int) -> str:
    """Returns the sentence around a part of a text, at most `EVIDENCE_MAX` characters with that part in them."""
    room = max(0, EVIDENCE_MAX - (end - begin)) // 2
    start = max(text.rfind(mark, max(0, begin - room), begin) for mark in (". ", "\n\n", "; "))
    start = start + 2 if start >= 0 else max(0, begin - room)
    stops = [place for mark in (". ", "\n\n", ";") if (place := text.find(mark, end, end + room)) >= 0]
    stop = min(stops) + 1 if stops else min(len(text), end + room)
    return " ".join(text[start:stop].split())[: 2 * EVIDENCE_MAX]
