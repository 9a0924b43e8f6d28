"""Values that CUAD's annotations lack or cut off, judged by rules that were fixed on the train fold.

CUAD's annotators left out some values and cut others off, so that a value that is right counts as wrong. A value counts
as right here, too, if one of these holds:

- ``law``: the column of answers names this law, in the dictionary's normal form. The clause that was annotated need not
  stand in the text as it is, as CUAD shortens clauses.
- ``definition``: the text defines the alias in quotes in a parenthesis, behind an annotated party with no other company
  between them.
- ``effective``: it is the annotated agreement date, and the text calls it effective.
- ``cut``: an annotated name begins or ends with it, or it with that name, and they differ by a tenth of its letters.

Only values that were found are judged again, so that figures can only rise: they stand beside those without it.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lineside_models.nlp.document_sets.annotations import AnnotatedDocument
from lineside_models.nlp.document_sets.public_data import (
    AGREEMENT_DATE,
    ALIAS,
    CUAD_TABLE,
    EFFECTIVE_DATE,
    LAW,
    PARTY,
    read_table,
)
from lineside_models.nlp.extraction.candidates import SpanCandidate
from lineside_models.nlp.extraction.contract_rules import COMPANY
from lineside_models.nlp.normalization.legal_terms import LegalTerms
from lineside_models.nlp.normalization.values import name_key

CUT_SHARE = 0.1
DEFINED_WITHIN = 400
"""Characters behind a party in which its alias is defined."""

_EFFECTIVE = re.compile(r"effective", re.IGNORECASE)
_OPENED = re.compile(r"\([^()]{0,80}[\"“][^\"”“()]{0,40}$")
_CLOSED = re.compile(r"[^()]{0,40}[\"”]")


class Adjudicator:
    """Judges values again that the annotations lack."""

    def __init__(self, folder: Path, terms: LegalTerms) -> None:
        """Reads the column of answers."""
        rows = read_table(folder / CUAD_TABLE)
        self._laws = {row["Filename"]: _laws(row["Governing Law-Answer"], terms) for row in rows}

    def rule(self, document: AnnotatedDocument, one: SpanCandidate) -> str | None:
        """Returns the name of the rule by which a value that is not annotated is right; ``None`` if there is none."""
        annotated = document.values.get(one.type, set())
        if one.type == LAW:
            return "law" if one.key in self._laws.get(document.name, ()) else None
        if one.type == EFFECTIVE_DATE:
            same = one.key in document.values.get(AGREEMENT_DATE, ())
            return "effective" if same and not annotated and _is_effective(document.text, one) else None
        if one.type == AGREEMENT_DATE:
            return None
        if any(_is_cut(one.key, key) for key in annotated):
            return "cut"
        return "definition" if one.type == ALIAS and _is_defined(document, one) else None

    def judged(
        self, documents: Sequence[AnnotatedDocument], found: Sequence[Sequence[SpanCandidate]]
    ) -> list[AnnotatedDocument]:
        """Returns the documents with the values that are right by a rule among the true ones."""
        judged = []
        for document, values in zip(documents, found, strict=True):
            true = {name: set(keys) for name, keys in document.values.items()}
            for one in values:
                if one.key not in true.get(one.type, ()) and self.rule(document, one):
                    true[one.type] = _without_cut(true.get(one.type, set()), one.key) | {one.key}
            judged.append(msgspec.structs.replace(document, values=true))
        return judged

    def counts(
        self, documents: Sequence[AnnotatedDocument], found: Sequence[Sequence[SpanCandidate]]
    ) -> dict[str, int]:
        """Returns how many values are right by each rule."""
        rules = [
            self.rule(document, one)
            for document, values in zip(documents, found, strict=True)
            for one in values
            if one.key not in document.values.get(one.type, ())
        ]
        return dict(sorted(collections.Counter(name for name in rules if name).items()))


def _laws(answer: str, terms: LegalTerms) -> set[str]:
    laws = [terms.key(LAW, part) or name_key(part) for part in re.split(r"[;/]", answer)]
    return {law for law in laws if law}


def _is_effective(text: str, one: SpanCandidate) -> bool:
    return any(_EFFECTIVE.search(text, max(0, place.start - 60), place.end + 40) for place in one.mentions)


def _is_cut(key: str, annotated: str) -> bool:
    short, long = sorted((key, annotated), key=len)
    return len(short) >= (1 - CUT_SHARE) * len(long) and (long.startswith(short) or long.endswith(short))


def _without_cut(keys: set[str], key: str) -> set[str]:
    """Returns the annotated keys without the one that was found in another length: it is one value."""
    return {each for each in keys if not _is_cut(key, each)}


def _is_defined(document: AnnotatedDocument, one: SpanCandidate) -> bool:
    text = document.text
    parties = [span for span in document.spans if span.type == PARTY]
    for place in one.mentions:
        opened = _OPENED.search(text, max(0, place.start - 130), place.start)
        if opened is None or _CLOSED.match(text, place.end) is None:
            continue
        near = [span.end for span in parties if 0 <= opened.start() - span.end <= DEFINED_WITHIN]
        if near and COMPANY.search(text, max(near), opened.start()) is None:
            return True
    return False
