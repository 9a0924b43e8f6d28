"""The order of turns in the benchmark ``placement``."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from benchmarks.runtime.placement import balanced_orders


@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd", "abcde"])
def test_each_way_has_each_place_and_follows_each_other_one_equally_often(names: str) -> None:
    orders = balanced_orders(names)
    assert all(sorted(order) == [*names] for order in orders)
    for counted in (
        Counter((name, place) for order in orders for place, name in enumerate(order)),
        Counter(pair for order in orders for pair in itertools.pairwise(order)),
    ):
        assert len(set(counted.values())) <= 1
    assert len({pair for order in orders for pair in itertools.pairwise(order)}) == len(names) * (len(names) - 1)
