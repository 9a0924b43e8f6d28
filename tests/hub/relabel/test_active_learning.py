"""Frames whose correction teaches most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lineside_hub.config import HubConfig
from lineside_hub.relabel.active_learning import NO_TYPE, RANDOM_SHARE, Ints, choose, uncertainty
from lineside_hub.relabel.export import export
from lineside_hub.relabel.reviews import mark
from lineside_hub.relabel.selection import Selection, select_results
from lineside_runtime.errors import ConfigError
from tests.hub.relabel.detector_results import PARTS


def test_unsure_frames_that_differ_are_chosen_and_a_share_at_random() -> None:
    """Of 400 frames the first 80 are unsure and show eight things, ten times each."""
    scores = np.where(np.arange(400) < 80, 0.5, 0.99)
    looks = np.eye(8, dtype=np.float32)[np.arange(400) % 8]
    asked: list[Ints] = []

    def describe(chosen: Ints) -> np.ndarray:
        asked.append(chosen)
        return looks[chosen]

    chosen = choose(uncertainty(scores), np.zeros(400, np.int64), 20, describe, seed=0)
    assert len(set(chosen.tolist())) == 20
    sure = int((chosen >= 80).sum())
    assert sure <= round(RANDOM_SHARE * 20)
    assert {int(place) % 8 for place in chosen if place < 80} == set(range(8))
    assert len(asked[0]) == 4 * (20 - round(RANDOM_SHARE * 20)) and (asked[0] < 80).all()
    again = choose(uncertainty(scores), np.zeros(400, np.int64), 20, describe, seed=1)
    assert set(again) != set(chosen)


def test_a_rare_type_counts_more_and_nothing_found_counts_nothing() -> None:
    scores = np.full(100, 0.9)
    scores[90:] = 0.0
    types = np.array([1 if number < 3 else NO_TYPE if number >= 90 else 0 for number in range(100)], np.int64)
    seen: list[Ints] = []

    def describe(chosen: Ints) -> np.ndarray:
        seen.append(chosen)
        return np.random.default_rng(0).standard_normal((len(chosen), 4)).astype(np.float32)

    choose(uncertainty(scores), types, 5, describe, seed=0)
    assert {0, 1, 2} <= set(seen[0].tolist())
    assert not (seen[0] >= 90).any()
    assert sorted(choose(uncertainty(scores), types, 100, describe, seed=0)) == list(range(100))


@pytest.mark.parametrize("select", ["random", "informative"])
def test_so_many_are_exported_and_those_marked_as_wrong_are_among_them(
    hub: HubConfig, tmp_path: Path, select: str
) -> None:
    parts = [one.part_id for one in select_results(hub, Selection(verdict="all"))]
    assert len(parts) == PARTS - 1
    mark(hub, parts[0], wrong=True, by="anna")
    choice = Selection(verdict="all", limit=3, select=select)  # type: ignore[arg-type]
    done = export(hub, choice, tmp_path / "out")
    assert (done.images, done.marked) == (3, 1)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3
    few = export(hub, Selection(verdict="all", limit=1, select=select), tmp_path / "few")  # type: ignore[arg-type]
    assert (few.images, few.marked) == (1, 1)
    with pytest.raises(ConfigError, match="limit"):
        export(hub, Selection(verdict="all", select=select), tmp_path / "none")  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()
