"""Contracts by spaCy's small English model: its entity types as ours, where it has one.

Organizations shortly behind the first "between" or "among" are parties (the best of five choices on the train fold).
The first date of the first pages is the agreement's, the first near the word "effective" the effective one, the first
place in a clause of governing law the law. It has no type for titles and aliases: these are found by the rules of
contracts.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.others.environments import python_of
from lineside_models.nlp.document_sets.annotations import AnnotatedDocument
from lineside_models.nlp.extraction.candidates import SpanCandidate, choose, gather
from lineside_models.nlp.extraction.contract_rules import BEGINNING, SCORE, contract_mentions
from lineside_models.nlp.extraction.spans import Mention
from lineside_models.nlp.normalization.dates import parse_date
from lineside_models.nlp.normalization.legal_terms import LegalTerms

_LAW = re.compile(r"govern(?:ed|ing)\b[^.]{0,120}\blaws?\b|governing law|construed in accordance", re.IGNORECASE)
_CLAUSE = 500
_EFFECTIVE = re.compile("effective", re.IGNORECASE)
_BETWEEN = re.compile(r"\b(?:between|among)\b", re.IGNORECASE)
PARTIES_WITHIN, PARTIES_FIRST = 400, 600
"""Characters behind that word in which parties stand, and of the beginning where there is no such word."""

_OF_RULES = ("title", "alias")

Entities = list[tuple[str, int, int]]


def read_with_spacy(
    documents: Sequence[AnnotatedDocument], terms: LegalTerms, single: Sequence[str]
) -> list[list[SpanCandidate]]:
    """Returns the values of each document.

    Args:
        terms: Gives laws their normal form.
        single: Types of which a document has one value.
    """
    clauses = [_LAW.search(document.text) for document in documents]
    beginnings = _entities([document.text[:BEGINNING] for document in documents])
    laws = _entities(
        [
            document.text[clause.start() : clause.start() + _CLAUSE] if clause is not None else ""
            for document, clause in zip(documents, clauses, strict=True)
        ]
    )
    found = []
    for document, first, clause, second in zip(documents, beginnings, clauses, laws, strict=True):
        mentions = _beginning(document.text, first)
        mentions += [one for one in contract_mentions(document.text, terms) if one.type in _OF_RULES]
        places = [(start, end) for label, start, end in second if label == "GPE"][:1]
        mentions += [
            _mention("governing_law", clause.start() + start, clause.start() + end) for start, end in places if clause
        ]
        values = [
            SpanCandidate(one.type, one.key, one.mentions, SCORE) for one in gather(mentions, document.text, terms)
        ]
        found.append(choose(values, single, SCORE))
    return found


def _beginning(text: str, entities: Entities) -> list[Mention]:
    between = _BETWEEN.search(text, 0, BEGINNING)
    first, last = (between.end(), between.end() + PARTIES_WITHIN) if between is not None else (0, PARTIES_FIRST)
    found = [
        _mention("party", start, end)
        for label, start, end in entities
        if label == "ORG" and first <= start and end <= last
    ]
    dates = [(start, end) for label, start, end in entities if label == "DATE" and parse_date(text[start:end])]
    found += [_mention("agreement_date", *place) for place in dates[:1]]
    effective = [place for place in dates if _EFFECTIVE.search(text, max(0, place[0] - 90), place[1] + 60)]
    return found + [_mention("effective_date", *place) for place in effective[:1]]


def _mention(type_name: str, start: int, end: int) -> Mention:
    return Mention(type_name, start, end, SCORE, SCORE)


def _entities(texts: Sequence[str]) -> list[Entities]:
    worker = Path(__file__).parent / "worker_spacy.py"
    done = subprocess.run(
        [python_of("spacy"), worker], input=json.dumps(texts), check=True, capture_output=True, text=True
    )
    return [[(label, start, end) for label, start, end in each] for each in json.loads(done.stdout)]
