"""CUAD as it is published: strings without places, shortened ones, aliases that only the answers name."""

import csv
from pathlib import Path

from lineside_models.nlp.document_sets.loading import load_documents

TEXT = """SUPPLY AGREEMENT

This Supply Agreement is made on May 4, 2015 by Alpha Works, Inc., a Delaware corporation (the "Seller"), and
Beta Trading Ltd. ("Buyer" or "BTL"). Each is a "Party". It is in force from the date above.

12. This Agreement (subject to clause 3) shall be governed by the laws of the PRC.
"""


def test_shortened_strings_and_the_aliases_of_the_answers_are_annotated(tmp_path: Path) -> None:
    row = {
        "Filename": "supply.pdf",
        "Document Name": "['SUPPLY AGREEMENT']",
        "Parties": """['Alpha Works, Inc.', 'the "Seller"', 'Beta Trading Ltd.', '"Buyer" or "BTL"', '"Party"']""",
        "Parties-Answer": 'Alpha Works, Inc. ("Seller"); Beta Trading Ltd. ("Buyer" or "BTL") ("Party", "none")',
        "Agreement Date": "['May 4, 2015']",
        "Effective Date": "['May 4, 2015<omitted>It is in force from the date above.']",
        "Governing Law": "['This Agreement<omitted>shall be governed by the laws of the PRC.']",
        "Governing Law-Answer": "People's Republic of China",
    }
    limit = csv.field_size_limit()
    _write(tmp_path / "master_clauses.csv", row | {"Clause": "x" * (limit + 1)})
    _write(tmp_path / "folds.csv", {"file": "supply.pdf", "group": "7", "fold": "train"})
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt" / "supply.txt").write_text(TEXT)

    (document,) = load_documents(tmp_path, "train")

    assert csv.field_size_limit() == limit, "other tables of this process are read under the limit"
    assert load_documents(tmp_path, "val") == ()
    assert document.values == {
        "title": {"supplyagreement"},
        "party": {"alphaworksinc", "betatradingltd"},
        "alias": {"seller", "buyer", "btl"},
        "agreement_date": {"2015-05-04"},
        "effective_date": {"2015-05-04"},
        "governing_law": {"peoplesrepublicofchina"},
    }
    assert document.pairs == {
        ("alias_of", "alphaworksinc", "seller"),
        ("alias_of", "betatradingltd", "buyer"),
        ("alias_of", "betatradingltd", "btl"),
    }
    said = {(span.type, TEXT[span.start : span.end]) for span in document.spans}
    assert {("alias", "Seller"), ("alias", "BTL"), ("governing_law", "PRC")} <= said


def _write(path: Path, row: dict[str, str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
