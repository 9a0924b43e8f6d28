"""`ContractParser`: entities and relations of a contract, with what a person must look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import msgspec
import numpy as np

from lineside_models.nlp.document import Document, DocumentReport, Entity, Relation, ReviewItem
from lineside_models.nlp.extraction.candidates import SpanCandidate, choose, gather
from lineside_models.nlp.extraction.contract_rules import SCORE, contract_mentions, contract_pairs
from lineside_models.nlp.extraction.form_rules import FormRules
from lineside_models.nlp.extraction.model_schema import ModelSchema, RelationType
from lineside_models.nlp.extraction.reading import (
    POSTPROCESS,
    FoundRelation,
    SpanReading,
    candidates_of,
    evidence,
    places_of,
    read_relations,
    read_values,
)
from lineside_models.nlp.extraction.spans import Floats, TokenProbabilities
from lineside_models.nlp.extraction.windows import TextWindows, batches
from lineside_models.nlp.limits import DocumentLimits
from lineside_models.nlp.normalization.legal_terms import LegalTerms
from lineside_models.nlp.normalization.values import normalise, value_kind
from lineside_models.nlp.reading.reader import read_document
from lineside_models.nlp.report_writer import Format, write_report
from lineside_models.nlp.rules import extract_by_rules
from lineside_models.nlp.schemas import Schema, load_schema
from lineside_runtime.bundle import Bundle, Manifest, TextForm, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, UnsupportedModelError
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

CONTRACT = "contract"
WORD_SCORE_MIN = 0.8
"""Score of text recognition below which a value is reviewed."""

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class SpanExtractor:
    """Finds values and relations in texts with a model of the task ``spans``."""

    def __init__(self, manifest: Manifest, tokenizer: Path, run: Run) -> None:
        """Reads tokenizer and post-processing.

        Args:
            run: Runs it: inputs by name to outputs by name.

        Raises:
            UnsupportedModelError: The bundle is of another task.
            BundleFormatError: Its tokenizer or its parameters are damaged.
            MissingExtraError: The package ``tokenizers`` is not installed.
        """
        form = text_form(manifest)
        self.types = manifest.labels
        self.reading = SpanReading.of(manifest.postprocess.params)
        self.windows = TextWindows(tokenizer, form)
        self._run, self._input, self._output = run, manifest.preprocess.input, manifest.outputs[0].name

    def probabilities(self, text: str) -> TokenProbabilities:
        """Returns the network's probabilities for a text; none where the scores use no network."""
        if not self.reading.network:
            return TokenProbabilities((), (), self.types)
        cut = self.windows(text)
        logits: list[Floats] = [np.zeros((0, len(self.types), 3))] * len(cut)
        for numbers, ids in batches(cut):
            found = self._run({self._input: ids})[self._output]
            for row, number in enumerate(numbers):
                logits[number] = np.asarray(found[row], np.float64)
        return TokenProbabilities(cut, logits, self.types)

    def read(self, text: str, terms: LegalTerms | None = None) -> tuple[list[SpanCandidate], list[FoundRelation]]:
        """Returns the values and the relations of a text."""
        return self.read_seen(text, self.probabilities(text), terms)

    def read_seen(
        self, text: str, seen: TokenProbabilities, terms: LegalTerms | None = None
    ) -> tuple[list[SpanCandidate], list[FoundRelation]]:
        """Returns the values and the relations of a text of which `probabilities` were computed."""
        reading = self.reading
        candidates = candidates_of(seen, text, self.types, terms, reading.schema, reading.form)
        values = read_values(candidates, text, self.types, self.reading, terms)
        return values, read_relations(values, text, self.reading)


def text_form(manifest: Manifest) -> TextForm:
    """Returns how a document bundle takes texts.

    Raises:
        UnsupportedModelError: The bundle is of another task.
    """
    form = manifest.preprocess.text
    if manifest.task != "spans" or not isinstance(form, TextForm) or manifest.postprocess.name != POSTPROCESS:
        raise UnsupportedModelError(
            f"{manifest.identity} reads no documents",
            expected="a bundle of the task spans",
            actual=f"task {manifest.task}",
            action="Give a bundle that `lineside train document` and `lineside optimize` made.",
        )
    return form


def open_extractor(session: Session) -> SpanExtractor:
    """Returns the extractor of a loaded document bundle.

    Raises:
        UnsupportedModelError: The bundle is of another task.
    """
    bundle = session.bundle
    return SpanExtractor(bundle.manifest, bundle.file(text_form(bundle.manifest).tokenizer), session.predict)


class ContractParser:
    """Reads contracts: who agrees with whom, since when, under which law.

    ::

        parser = ContractParser(legal_terms_db="law_dict.json", output_format="json", bundle="contracts-1.0.1-int8")
        print(parser.analyze("contract.pdf"))

    With a bundle, scores are calibrated probabilities, and a value that is not sure is listed under ``review``. Without
    one the rules of the shipped schema find what they can, and all of it is to be reviewed.
    """

    def __init__(
        self,
        legal_terms_db: Path | str | None = None,
        output_format: Format = "json",
        *,
        schema: str | None = None,
        bundle: Bundle | Session | Path | str | None = None,
        config: Config | None = None,
    ) -> None:
        """Opens the dictionary and the model.

        Args:
            legal_terms_db: A JSON file of terms, which proposes where values stand and gives them their normal form;
                ``law_dict.json`` is the shipped one where there is no such file; ``None`` for none.
            output_format: Of `analyze`: ``json``, ``csv`` or ``html``.
            schema: What is looked for: a shipped schema's name, or a TOML file; ``None`` for that of the bundle, and
                without one for ``contract``.
            bundle: A document bundle, its folder, or a session with it, which stays the caller's; ``None`` for the
                rules of the schema.
            config: Where the bundle may run.

        Raises:
            BadInputFormatError: The dictionary is none, or a term has a type that is not looked for.
            ConfigError: A value is not one of the named ones, or the bundle is of another schema.
            InputNotFoundError: There is no such dictionary or bundle.
            UnsupportedModelError: The bundle is of another task.
        """
        if output_format not in get_args(Format):
            raise ConfigError("output_format", expected="json, csv or html", actual=repr(output_format))
        self._format = output_format
        self._rules = load_schema(schema or CONTRACT) if schema is not None or bundle is None else None
        self._terms = None if legal_terms_db is None else LegalTerms.open(legal_terms_db)
        self._own: Session | None = None
        self._extractor: SpanExtractor | None = None
        if bundle is not None and not isinstance(bundle, Session):
            bundle = self._own = Session(bundle if isinstance(bundle, Bundle) else open_bundle(bundle), config)
        try:
            if bundle is not None:
                self._extractor = open_extractor(bundle)
                self._identity, of = bundle.manifest.identity, self._extractor.reading.schema
                if self._rules is not None and self._rules.name != of:
                    raise ConfigError("schema of the bundle", expected=self._rules.name, actual=of)
            if self._terms is not None:
                self._terms.check_types(self._types, str(legal_terms_db))
        except BaseException:
            self.close()
            raise

    @property
    def _types(self) -> Sequence[str]:
        """What is looked for."""
        if self._extractor is not None:
            return self._extractor.types
        rules = self._rules or load_schema(CONTRACT)
        of_model = () if rules.model is None else rules.model.types
        return tuple(dict.fromkeys((*(one.name for one in rules.fields), *of_model)))

    def __enter__(self) -> ContractParser:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Frees the model."""
        if self._own is not None:
            self._own.close()
            self._own = None

    def analyze(self, source: Path | str | bytes, *, limits: DocumentLimits | None = None) -> Any:
        """Reads a document and returns the findings in the output format.

        Args:
            source: PDF, DOCX, text or image, as a path or its content.
            limits: What reading may cost.

        Returns:
            For ``json`` a dictionary with ``entities``, ``relations`` and ``review``, see `DocumentReport`; for ``csv``
            and ``html`` a text.

        Raises:
            DocumentError: The file can't be read.
        """
        document = read_document(source, limits=limits)
        report = self.report(document)
        if self._format != "json":
            return write_report(report, document, self._format, source=source)
        return msgspec.to_builtins(report)

    def report(self, document: Document) -> DocumentReport:
        """Returns the findings in a document that was read before."""
        if self._extractor is None:
            return self._by_rules(document, self._rules or load_schema(CONTRACT))
        values, relations = self._extractor.read(document.text, self._terms)
        reading = self._extractor.reading
        return self._built(
            document,
            values,
            relations,
            accepted=reading.scorer_for(self._terms).accepted,
            single=reading.single,
            name=self._identity,
            schema=reading.schema,
            form=reading.form,
        )

    def _by_rules(self, document: Document, schema: Schema) -> DocumentReport:
        """Returns what rules find: of a contract those of `contract_rules`, and the schema's for its other fields."""
        by_schema = extract_by_rules(document, schema)
        model = schema.model
        if schema.name != CONTRACT or model is None:
            return by_schema
        values, relations = by_rules(document.text, model, self._terms)
        found = self._built(
            document,
            values,
            relations,
            accepted=1.0,
            single=model.single,
            name="",
            schema=schema.name,
            form=model.form,
        )
        return _joined(found, by_schema, model.types)

    def _built(
        self,
        document: Document,
        values: Sequence[SpanCandidate],
        relations: Sequence[FoundRelation],
        *,
        accepted: float,
        single: Sequence[str],
        name: str,
        schema: str,
        form: FormRules,
    ) -> DocumentReport:
        ordered = sorted(values, key=lambda one: (one.clearest.start, one.type))
        entities = tuple(self._entity(one, document, form) for one in ordered)
        numbers = {(one.type, one.key): number for number, one in enumerate(ordered)}
        linked = tuple(
            Relation(
                type=one.type,
                head=numbers[one.head],
                tail=numbers[one.tail],
                score=round(one.score, 4),
                evidence=evidence(document.text, one.begin, one.end),
            )
            for one in relations
        )
        return DocumentReport(
            source=document.source,
            schema=schema,
            bundle=name,
            entities=entities,
            relations=linked,
            review=tuple(_review(entities, document, accepted, single, form)),
        )

    def _entity(self, one: SpanCandidate, document: Document, form: FormRules) -> Entity:
        place = one.clearest
        text = document.text[place.start : place.end]
        page, box, read = document.place(place.start, place.end)
        known = self._terms.canonical(one.type, text) if self._terms is not None else None
        return Entity(
            type=one.type,
            text=" ".join(text.split()),
            value=known or normalise(one.type, form.mended(one.type, text)),
            score=round(one.score * read, 4),
            start=place.start,
            end=place.end,
            page=page,
            box=box,
        )


def _joined(found: DocumentReport, other: DocumentReport, types: Sequence[str]) -> DocumentReport:
    """Returns a report with the entities of another one whose types it does not look for."""
    kept = [number for number, one in enumerate(other.entities) if one.type not in types]
    places = {number: len(found.entities) + place for place, number in enumerate(kept)}
    review = [
        msgspec.structs.replace(one, entity=None if one.entity is None else places[one.entity])
        for one in other.review
        if one.field not in types and (one.entity is None or one.entity in places)
    ]
    return msgspec.structs.replace(
        found,
        entities=(*found.entities, *(other.entities[number] for number in kept)),
        review=(*found.review, *review),
    )


def by_rules(
    text: str, schema: ModelSchema, terms: LegalTerms | None
) -> tuple[list[SpanCandidate], list[FoundRelation]]:
    """Returns the values and relations that the rules of contracts find.

    Args:
        schema: Of contracts: its relations are looked for.
        terms: Of laws; the shipped dictionary if ``None``.
    """
    ranked = [
        SpanCandidate(one.type, one.key, one.mentions, SCORE)
        for one in gather(contract_mentions(text, terms), text, terms)
    ]
    values = choose(ranked, schema.single, SCORE)
    relations: list[FoundRelation] = []
    for name, relation in schema.relations.items():
        heads = [one for one in values if one.type == relation.head]
        tails = [one for one in values if one.type == relation.tail]
        if relation.pairs:
            relations += _pairs_by_rules(name, relation, heads, tails)
        elif heads:
            relations += [
                FoundRelation(
                    name,
                    (heads[0].type, heads[0].key),
                    (one.type, one.key),
                    SCORE,
                    one.clearest.start,
                    one.clearest.end,
                )
                for one in tails
            ]
    return values, relations


def _pairs_by_rules(
    name: str, relation: RelationType, heads: Sequence[SpanCandidate], tails: Sequence[SpanCandidate]
) -> list[FoundRelation]:
    found = {(pair.head.key, pair.tail.key): pair for pair in contract_pairs(places_of(heads), places_of(tails))}
    return [
        FoundRelation(
            name,
            (relation.head, pair.head.key),
            (relation.tail, pair.tail.key),
            SCORE,
            min(pair.head.start, pair.tail.start),
            max(pair.head.end, pair.tail.end),
        )
        for pair in found.values()
    ]


def _review(
    entities: Sequence[Entity], document: Document, accepted: float, single: Sequence[str], form: FormRules
) -> list[ReviewItem]:
    items: list[ReviewItem] = []
    for number, one in enumerate(entities):
        _, _, read = document.place(one.start, one.end)
        reason, why = "", ""
        if read < WORD_SCORE_MIN:
            reason, why = "unreadable", f"text recognition gave it a score of {read:.2f}"
        elif one.score < accepted:
            why = (
                "a rule found it, without a model"
                if accepted >= 1
                else f"score {one.score:.2f} is below {accepted:.2f}"
            )
            reason = "uncertain"
        elif value_kind(one.type) == "date" and (one.value is None or len(one.value) < 10):
            reason, why = "ambiguous", "not a whole date"
        elif (mended := form.mended(one.type, one.text)) != one.text:
            reason, why = "ambiguous", f"a word may be misread, the value has {mended!r}"
        if reason:
            text = f"{one.text!r}: {why}"
            items.append(
                ReviewItem(reason=reason, field=one.type, text=text, entity=number, page=one.page, box=one.box)
            )
    found = {one.type for one in entities}
    items += [
        ReviewItem(reason="missing", field=name, text="nothing was found") for name in single if name not in found
    ]
    return items
