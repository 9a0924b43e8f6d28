"""Parts of the recommender that need no trained network: tables, exploration, metrics."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from lineside_models.recommendation import Recommender
from lineside_models.recommendation.exploration import draw_order
from lineside_models.recommendation.metrics import auc, ndcg, ranks, user_auc
from lineside_models.recommendation.tables import ItemTables, encode_ids, open_tables, quantize_rows
from lineside_runtime.bundle import Rows
from lineside_runtime.config import Config
from lineside_runtime.errors import BadInputFormatError, BundleIntegrityError
from tests.worlds.recommenders import make_recommender


def tables() -> ItemTables:
    rng = np.random.default_rng(0)
    item_vectors, item_scales = quantize_rows(rng.normal(size=(5, 4)))
    attribute_vectors, attribute_scales = quantize_rows(rng.normal(size=(3, 4)))
    return ItemTables(
        {
            "items": encode_ids(("a", "b", "ö")),
            "item_vectors": item_vectors,
            "item_scales": item_scales,
            "item_bias": np.zeros(5, np.float32),
            "item_attributes": np.array([[1, 2], [1, 0], [0, 0], [0, 0], [0, 0]]),
            "attributes": encode_ids(("red", "round")),
            "attribute_vectors": attribute_vectors,
            "attribute_scales": attribute_scales,
        }
    )


def test_an_unknown_item_has_the_vector_of_its_attributes() -> None:
    found = tables()
    assert found.rows_of(["ö", "nowhere", "a"]).tolist() == [2, 3, 0]
    vectors, _ = found.vectors(np.array([0, 3]), {1: ["red", "round", "unheard of"]})
    assert np.array_equal(vectors[0, 4:], vectors[1, 4:])
    assert np.array_equal(found.vectors(np.array([3]))[0][0, 4:], np.zeros(4))


def test_an_id_that_no_table_can_hold_is_unknown_and_takes_no_room_and_one_that_is_no_text_is_refused() -> None:
    found = tables()
    many = ["a", "a\0", "x" * 100_000, *["a"] * 1_000_000]  # 100 GB, if each had the room of the longest
    assert found.rows_of(many)[:4].tolist() == [0, found.unknown, found.unknown, 0]
    for wrong in ("\udcff", 7):
        with pytest.raises(BadInputFormatError, match="an id is no text"):
            found.rows_of(["a", wrong])  # type: ignore[list-item]


def test_rows_are_quantized_alone_and_within_half_a_step() -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 8)) * np.logspace(-4, 2, 50)[:, None]
    quantized, scales = quantize_rows(vectors)
    changed = vectors.copy()
    changed[7] *= 3
    assert np.array_equal(np.delete(quantize_rows(changed)[0], 7, 0), np.delete(quantized, 7, 0))
    steps = scales.astype(np.float64)[:, None]
    assert (np.abs(quantized * steps - vectors) <= 0.5001 * steps).all()
    assert not quantize_rows(np.zeros((2, 3)))[0].any()


@pytest.mark.parametrize("scores", [(0, 1, 2), (0, 0.5, 37), (0, 1, 100), (-3000, -2999, 800)], ids=str)
def test_propensities_are_the_frequencies_of_the_draws(scores: tuple[float, ...]) -> None:
    rng, count = np.random.default_rng(2), 20_000
    seen: dict[tuple[int, ...], int] = dict.fromkeys(itertools.permutations(range(3), 2), 0)
    chances: dict[tuple[int, ...], float] = {}
    for _ in range(count):
        order, propensity = draw_order(np.array(scores, np.float32), 2, 0.8, rng)
        seen[tuple(order.tolist())] += 1
        chances[tuple(order.tolist())] = propensity.prod()
    assert sum(chances.values()) == pytest.approx(1)
    for places, chance in chances.items():
        assert seen[places] / count == pytest.approx(chance, abs=4 * (chance / count) ** 0.5)


def test_metrics_agree_with_their_definitions() -> None:
    rng = np.random.default_rng(3)
    chosen, others = rng.integers(0, 5, 40).astype(float), rng.integers(0, 5, (40, 7)).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in chosen for b in others.ravel()]
    assert auc(chosen, others) == pytest.approx(np.mean(pairs))
    mine = [np.mean([(a > b) + 0.5 * (a == b) for b in row]) for a, row in zip(chosen, others, strict=True)]
    assert user_auc(chosen, others) == pytest.approx(mine)
    assert ndcg(ranks(np.array([1.0]), np.array([[2.0, 0.0]])), 10) == pytest.approx(1 / np.log2(3))


def test_a_bundle_that_is_written_over_changes_no_answer_of_who_has_it_open(tmp_path: Path) -> None:
    bundle = make_recommender(tmp_path / "parts")
    rows = bundle.manifest.preprocess.rows
    assert isinstance(rows, Rows)
    with Recommender(bundle, Config(engines=("ort",), threads=1)) as recommender:
        before = recommender.recommend(["seal-1"], top=3)
        for path in rows.tables.values():
            os.truncate(bundle.path / path, 0)
        assert recommender.recommend(["seal-1"], top=3) == before
    with pytest.raises(BundleIntegrityError, match="was replaced"):
        open_tables(bundle, rows)
