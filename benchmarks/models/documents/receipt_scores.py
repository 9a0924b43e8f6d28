"""Receipts (SROIE) by the scores of `benchmarks.models.documents.receipts` without a network.

The same readings, schema, folds and figures. Candidates come from the schema alone, and scores are fitted on the 60
receipts of the train fold. ``values_ms`` is the processor time of finding the values in a text that was read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.models.documents.receipts import fit_without_network, judged, receipt_data
from benchmarks.smoke import scaled
from lineside_models.nlp.extraction.candidates import SpanCandidate
from lineside_models.nlp.extraction.reading import SpanReading, candidates_of, read_values
from lineside_models.nlp.extraction.spans import TokenProbabilities

ROUNDS = scaled(5, smoke=1)
"""Readings of each text that are timed."""


def run() -> dict[str, Any]:
    """Fits and judges."""
    receipts, data = receipt_data()
    fitted = fit_without_network(data)
    reading = SpanReading.of(fitted.postprocess.params)
    types = reading.single
    nothing = TokenProbabilities((), (), types)
    spent: list[float] = []
    counts: list[int] = []

    def read(text: str) -> Sequence[SpanCandidate]:
        begin = time.process_time()
        for _ in range(ROUNDS):
            candidates = candidates_of(nothing, text, types, None, reading.schema, reading.form)
            values = read_values(candidates, text, types, reading, None)
        spent.append((time.process_time() - begin) / ROUNDS)
        counts.append(len(candidates))
        return values

    found = judged(receipts, read, reading)
    found["train"] = {"scores": fitted.f1}
    found["candidates"] = sum(counts) / len(counts)
    found["values_ms"] = 1000 * sum(spent) / len(spent)
    return found
