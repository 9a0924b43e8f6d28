"""Scores of values on forms, fitted without a network, and the parts of a cross-fitting."""

import random

from lineside_converters.training.documents.data import split_groups
from lineside_converters.training.documents.fitting import fit_reading
from lineside_models.nlp.document_sets.annotations import AnnotatedDocument
from lineside_models.nlp.extraction.model_schema import ModelSchema
from lineside_models.nlp.extraction.reading import SpanReading, candidates_of, read_values
from lineside_models.nlp.extraction.spans import TokenProbabilities

SCHEMA = ModelSchema(
    single=("total_amount",), line_breaks=True, patterns={"total_amount": (r"(?<![\d.])(\d+\.\d\d)(?!\d)",)}
)


def receipt(number: int) -> AnnotatedDocument:
    """Returns a receipt on which neither place nor size says which amount is the total."""
    rng = random.Random(number)
    lines = [("Sub total", rng.uniform(20, 90)), ("Grand total", rng.uniform(20, 90)), ("Cash", rng.uniform(20, 90))]
    rng.shuffle(lines)
    total = next(f"{amount:.2f}" for name, amount in lines if name == "Grand total")
    text = "Store\n" + "".join(f"{name}\t{amount:.2f}\n" for name, amount in lines)
    return AnnotatedDocument(
        name=str(number), text=text, group=str(number // 2), spans=(), values={"total_amount": {total}}, pairs=set()
    )


def test_the_words_beside_an_amount_tell_which_one_is_the_total() -> None:
    nothing = TokenProbabilities((), (), SCHEMA.types)
    documents = [receipt(number) for number in range(40)]

    found = fit_reading(SCHEMA, documents, [nothing] * len(documents), trained=(), name="receipt")

    reading = SpanReading.of(found.postprocess.params)
    assert "total_amount left:grand" in reading.indicators and reading.scorer_terms is None
    assert found.f1 > 0.95
    for document in (receipt(number) for number in range(100, 110)):
        candidates = candidates_of(nothing, document.text, SCHEMA.types, None, "receipt", reading.form)
        (value,) = read_values(candidates, document.text, SCHEMA.types, reading, None)
        assert {value.key} == document.values["total_amount"]


def test_the_parts_of_a_cross_fitting_hold_each_document_once_and_no_group_twice() -> None:
    documents = [receipt(number) for number in range(25)]
    parts = [split_groups(documents, 1 / 3, 0, number) for number in range(3)]
    assert sorted(int(one.name) for _, held in parts for one in held) == list(range(25))
    for trained, held in parts:
        assert len(trained) + len(held) == 25 and not {one.group for one in trained} & {one.group for one in held}
