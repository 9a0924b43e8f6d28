"""Recommendation on Amazon Beauty: the deep interest network, and what it has to beat.

Each user's last choice is for the test, the one before it chooses weights and weights of the sum, and the rest is
trained on. Others are drawn uniformly and by popularity from what the user never chose. GAUC is the mean over the
users; differences are paired by user, over the mean of the seeds. Trained networks are kept in
``benchmarks/.recommendation``, where an interrupted run goes on: remove it to train again.

``cold`` trains without any choice of some items and ranks these for the users who chose them last. ``patch`` is what
the hub sends after `DINModel.update` with the choices of a day.

Baseline: the same network with mean pooling; popularity, item-kNN, overlap of attributes, their sum; torch-rechub's DIN
(extra ``recommendation-peer``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.models.recommendation import peer
from benchmarks.models.recommendation.baselines import Baselines, aucs, choose_weights, summed
from benchmarks.models.recommendation.bundles import daily_patch, latency, quantized
from benchmarks.models.recommendation.data import (
    HISTORY_MAX,
    SEEDS,
    FullRanking,
    held_back_items,
    load_choices,
    rank_everything,
    trained,
)
from benchmarks.smoke import scaled
from lineside_converters.gates.statistics import drop_of_mean
from lineside_converters.training.recommendation.interactions import Interactions
from lineside_converters.training.recommendation.model import ranking_figures
from lineside_converters.training.recommendation.objective import (
    KINDS,
    HeldChoices,
    NegativeSampler,
    held_choices,
    score_all,
    trained_share,
)

NEGATIVES = scaled(50, smoke=5)
GOALS = {
    "over_mean_pooling": 0.005,
    "over_best_simple": 0.02,
    "int8_drop": 0.001,
    "p99_ms": {"200": 5.0, "1000": 25.0},
    "patch_bytes": 100_000,
}
SIMPLE = ("popularity", "item_knn", "overlap", "sum")

Scores = npt.NDArray[np.floating[Any]]


def run() -> dict[str, Any]:
    """Trains what is not trained yet, and measures everything."""
    choices = load_choices()
    known = choices.without_last()
    held = _held(choices, known)
    scores: dict[str, list[Scores]] = {name: [each] for name, each in _simple(choices, known, held).items()}
    networks = {
        pooling: [trained(known, pooling=pooling, seed=seed) for seed in SEEDS] for pooling in ("attention", "mean")
    }
    for pooling, models in networks.items():
        scores[pooling] = [score_all(model.network, held.histories, held.candidates) for model in models]
    if peer.is_installed():
        scores["torch_rechub"] = [peer.cached_score(known, held, networks["attention"][0].config)]
    full = rank_everything(choices, known, networks)
    rows = {name: _row(each, full.get(name)) for name, each in scores.items()}
    best = max(SIMPLE, key=lambda name: np.mean([rows[name][kind]["gauc"] for kind in KINDS]))
    return {
        "baseline": "the same network with mean pooling, and the best simple ranking",
        "data": "Amazon Beauty",
        "users": len(held.histories),
        "items": len(choices.items),
        "choices": known.count,
        "negatives": NEGATIVES,
        "seeds": list(SEEDS),
        "rows": rows,
        "best_simple": best,
        "over_mean_pooling": _differences(scores["attention"], scores["mean"]),
        "over_best_simple": {
            kind: min(
                (_differences(scores["attention"], scores[name])[kind] for name in SIMPLE),
                key=lambda found: found["difference"],
            )
            for kind in KINDS
        },
        "int8": quantized(networks["attention"][0], held),
        "latency": latency(networks["attention"][0], choices),
        "patch": daily_patch(networks["attention"][0], choices),
        "cold": _cold(choices),
        "goals": GOALS,
    }


def _held(choices: Interactions, known: Interactions) -> HeldChoices:
    """Returns each user's last choice among others, drawn by what was popular before it."""
    negatives = NegativeSampler(known)
    return held_choices(choices, negatives, HISTORY_MAX, seed=0, users=len(choices.users), count=NEGATIVES)


def _simple(choices: Interactions, known: Interactions, held: HeldChoices) -> dict[str, Scores]:
    """Returns the scores of the simple rankings; the weights of their sum are chosen on the choices before the last."""
    before = trained_share(known)
    for_choosing = held_choices(known, NegativeSampler(before), HISTORY_MAX, seed=1, count=NEGATIVES)
    weights = choose_weights(Baselines(before).score(for_choosing))
    found = Baselines(known).score(held)
    return {**found, "sum": summed(found, weights)}


def _row(by_seed: list[Scores], full: FullRanking | None) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for place, kind in enumerate(KINDS):
        figures = [ranking_figures(each[:, 0], np.split(each[:, 1:], len(KINDS), axis=1)[place]) for each in by_seed]
        row[kind] = {
            **{
                name: float(np.mean([getattr(each, name) for each in figures]))
                for name in ("gauc", "auc", "hit_rate_10", "ndcg_10")
            },
            "gauc_by_seed": [each.gauc for each in figures],
        }
    if full is not None:
        row["full"] = dataclasses.asdict(full)
    return row


def _differences(ours: list[Scores], theirs: list[Scores]) -> dict[str, dict[str, float]]:
    """Returns how much higher our GAUC is, with its interval, by kind."""
    found = {}
    for kind in KINDS:
        mine, other = (np.mean([aucs(each)[kind] for each in scores], 0) for scores in (ours, theirs))
        drop = drop_of_mean(mine, other)
        found[kind] = {"difference": drop.drop, "low": drop.low, "high": drop.high}
    return found


def _cold(choices: Interactions) -> Mapping[str, Any]:
    """Returns GAUC of items that nobody had chosen, for the users who chose one of them last."""
    cold, without, held = held_back_items(choices, NEGATIVES)
    model = trained(without, name="cold", pooling="attention", seed=0)
    simple = Baselines(without).score(held)
    found: dict[str, Scores] = {"attention": score_all(model.network, held.histories, held.candidates), **simple}
    return {
        "items": len(cold),
        "users": len(held.histories),
        **{name: {kind: float(each.mean()) for kind, each in aucs(scores).items()} for name, scores in found.items()},
    }
