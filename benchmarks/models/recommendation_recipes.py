"""Recipes of the recommender's training on the choosing set of Amazon Beauty: which one is worth being the default.

Nothing here looks at a user's last choice, on which `benchmarks.models.recommendation` judges: the choice before it is
ranked, and the rest is trained on. Differences are paired by user, of one seed.

Baseline: the best simple ranking. The weights of the sum are chosen on the judged choices themselves, which favours it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.models.recommendation.baselines import Baselines, aucs, choose_weights, summed
from benchmarks.models.recommendation.data import HISTORY_MAX, load_choices, trained
from benchmarks.smoke import scaled
from lineside_converters.gates.statistics import drop_of_mean
from lineside_converters.training.recommendation.objective import (
    KINDS,
    NegativeSampler,
    held_choices,
    score_all,
    trained_share,
)

SEED = 0
USERS = scaled(6000, smoke=50)
NEGATIVES = scaled(50, smoke=5)
RECIPES: dict[str, dict[str, int]] = {
    "u4p4-e10": {"uniform_negatives": 4, "popular_negatives": 4, "epochs": 10},
    "u6p2-e10": {"uniform_negatives": 6, "popular_negatives": 2, "epochs": 10},
}
"""By the name of the kept run. The learning rate falls along a cosine to the last epoch; training ends before it when
three evaluations were no better."""

SHIPPED = "u6p2-e10"


def run() -> dict[str, Any]:
    """Trains what is not trained yet, and ranks the choices before the last."""
    known = load_choices().without_last()
    before = trained_share(known)
    held = held_choices(known, NegativeSampler(before), HISTORY_MAX, seed=1, users=USERS, count=NEGATIVES)
    simple = Baselines(before).score(held)
    simple["sum"] = summed(simple, choose_weights(simple))
    baselines = {name: aucs(scores) for name, scores in simple.items()}
    rows: dict[str, Any] = {}
    for name, settings in RECIPES.items():
        epochs = scaled(settings["epochs"], smoke=1)
        network = trained(known, pooling="attention", seed=SEED, name=name, **{**settings, "epochs": epochs}).network
        ours = aucs(score_all(network, held.histories, held.candidates))
        rows[name] = {**settings, "kinds": {}}
        for kind in KINDS:
            best = max(baselines, key=lambda each: float(baselines[each][kind].mean()))
            over = drop_of_mean(ours[kind], baselines[best][kind])
            rows[name]["kinds"][kind] = {
                "gauc": float(np.mean(ours[kind])),
                "best_simple": best,
                "over_best_simple": over.drop,
                "low": over.low,
                "high": over.high,
            }
    return {
        "baseline": "the best simple ranking",
        "data": "Amazon Beauty, the choices before the last",
        "users": len(held.histories),
        "negatives": NEGATIVES,
        "seed": SEED,
        "shipped": SHIPPED,
        "simple": {
            name: {kind: float(each.mean()) for kind, each in scores.items()} for name, scores in baselines.items()
        },
        "recipes": rows,
    }
