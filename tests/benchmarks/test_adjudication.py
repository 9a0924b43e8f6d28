"""Adjudication of values that CUAD's annotations lack: what counts as right, and what does not."""

import csv
from pathlib import Path

import msgspec
import pytest

from benchmarks.models.documents.adjudication import Adjudicator
from lineside_models.nlp.document_sets.annotations import AnnotatedDocument, AnnotatedSpan
from lineside_models.nlp.extraction.candidates import SpanCandidate, gather
from lineside_models.nlp.extraction.spans import Mention
from lineside_models.nlp.normalization.legal_terms import SHIPPED, LegalTerms

TEXT = (
    'Supply Agreement effective March 3, 2021 between Northwind Inc. ("Buyer") and Blue Ridge LLC ("Seller"), a '
    'subsidiary of Acme Corp. ("Acme"), governed by the laws of New York and of Ohio. "Goods" means steel.'
)


def place(words: str) -> tuple[int, int]:
    return TEXT.index(words), TEXT.index(words) + len(words)


@pytest.fixture
def adjudicator(tmp_path: Path) -> Adjudicator:
    with (tmp_path / "master_clauses.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, ["Filename", "Governing Law-Answer"])
        rows.writeheader()
        rows.writerow({"Filename": "a.pdf", "Governing Law-Answer": "State of New York; England"})
    return Adjudicator(tmp_path, LegalTerms.open(SHIPPED))


@pytest.mark.parametrize(
    ("type_name", "words", "rule"),
    [
        ("governing_law", "New York", "law"),
        ("governing_law", "Ohio", None),
        ("alias", "Seller", "definition"),
        ("alias", "Acme", None),  # of a company that is no party
        ("alias", "Goods", None),  # in no parenthesis
        ("effective_date", "March 3, 2021", "effective"),
        ("title", "Supply Agreement", "cut"),
        ("party", "Acme Corp", None),
    ],
)
def test_a_value_that_is_not_annotated_is_right_by_a_rule_only(
    adjudicator: Adjudicator, type_name: str, words: str, rule: str | None
) -> None:
    document = AnnotatedDocument(
        name="a.pdf",
        text=TEXT,
        group="a",
        spans=tuple(AnnotatedSpan("party", *place(name)) for name in ("Northwind Inc", "Blue Ridge LLC")),
        values={
            "agreement_date": {"2021-03-03"},
            "title": {"supplyagreemen"},
            "party": {"northwindinc", "blueridgellc"},
        },
        pairs=set(),
    )
    terms = LegalTerms.open(SHIPPED)
    found: list[SpanCandidate] = gather([Mention(type_name, *place(words), 0.9, 0.9)], TEXT, terms)
    assert adjudicator.rule(document, found[0]) == rule
    (judged,) = adjudicator.judged([document], [found])
    right = found[0].key in judged.values.get(type_name, ())
    assert right == (rule is not None)
    assert msgspec.structs.replace(judged, values=document.values) == document
    assert sum(map(len, judged.values.values())) == 4 + (right and rule != "cut")
