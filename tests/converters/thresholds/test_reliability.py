from __future__ import annotations

import itertools

import numpy as np
import pytest

from lineside_converters.thresholds.reliability import LEAST, expected_calibration_error, reliability


def test_scores_that_are_probabilities_have_hardly_an_error() -> None:
    random = np.random.default_rng(1)
    scores = random.uniform(0, 1, 8000)
    found = reliability(scores[:, None], random.random((8000, 1)) < scores[:, None], ("a",))
    assert found is not None
    assert found.ece < 0.03
    assert found.candidates == (scores >= found.from_score).sum()
    assert all(abs(each.score - each.right) < 0.08 for each in found.bins)


def test_scores_that_claim_too_much_have_the_error_that_they_claim_too_much() -> None:
    random = np.random.default_rng(2)
    true = random.uniform(0.1, 0.7, 8000)
    found = reliability(true[:, None] + 0.2, random.random((8000, 1)) < true[:, None], ("a",))
    assert found is not None
    assert found.ece == pytest.approx(0.2, abs=0.02)
    assert found.low < 0.2 < found.high


def test_the_error_is_that_of_the_textbook() -> None:
    """Guo's sum, written out bin by bin."""
    random = np.random.default_rng(3)
    scores, right = random.uniform(0.1, 1, 500), random.random(500) < 0.5
    edges = np.linspace(0.1, 1.0, 10)
    error = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (scores >= low) & (scores < high)
        if inside.any():
            error += inside.mean() * abs(scores[inside].mean() - right[inside].mean())
    assert expected_calibration_error(scores, right) == pytest.approx(error, abs=1e-9)


def test_a_type_with_few_scores_has_no_figure_of_its_own() -> None:
    random = np.random.default_rng(4)
    best = random.uniform(0.2, 1, (200, 2))
    best[LEAST - 1 :, 1] = 0
    found = reliability(best, random.random((200, 2)) < best, ("a", "b"))
    assert found is not None
    assert list(found.by_type) == ["a"]


def test_too_few_scores_say_nothing() -> None:
    assert reliability(np.full((500, 1), 0.01), np.zeros((500, 1), bool), ("a",)) is None
    assert reliability(np.empty((0, 1)), np.empty((0, 1), bool), ("a",)) is None
