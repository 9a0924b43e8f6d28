"""Choices, trained networks and rankings of all items."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.inputs.data import shared
from benchmarks.models.recommendation.baselines import Baselines
from benchmarks.smoke import SMOKE, kept, scaled
from lineside_converters.training.progress import OnProgress, TrainingProgress
from lineside_converters.training.recommendation.config import RecommenderConfig
from lineside_converters.training.recommendation.interactions import (
    Interactions,
    collect,
    read_interactions,
    write_interactions,
)
from lineside_converters.training.recommendation.model import DINModel
from lineside_converters.training.recommendation.objective import (
    HeldChoices,
    NegativeSampler,
    held_choices,
    padded,
    score_all,
)
from lineside_models.networks.din import InterestNetwork
from lineside_models.recommendation.metrics import hit_rate, ndcg, ranks

KEPT = kept(".recommendation")
SEEDS = scaled((0, 1, 2), smoke=(0,))
EPOCHS = scaled(10, smoke=1)
HISTORY_MAX = 20
RANKED_USERS = scaled(1000, smoke=10)
COLD_ITEMS = scaled(600, smoke=5)
_AT_ONCE = 500
_SMOKE_USERS = 80


@dataclasses.dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A network with its run.

    Attributes:
        model: The run.
        network: Its network.
        config: Its settings.
    """

    model: DINModel
    network: InterestNetwork
    config: RecommenderConfig


@dataclasses.dataclass(frozen=True, slots=True)
class FullRanking:
    """Accuracy among all items that the user has not chosen.

    Attributes:
        users: Number of users.
        hit_rate_10: Share of users whose chosen item is among the first ten.
        ndcg_10: See `lineside_models.recommendation.metrics.ndcg`.
    """

    users: int
    hit_rate_10: float
    ndcg_10: float


def load_choices() -> Interactions:
    """Returns the choices of Amazon Beauty; in a smoke run drawn ones."""
    if SMOKE:
        rng = np.random.default_rng(0)
        return collect(_drawn(rng))
    return read_interactions(shared("amazon-reviews") / "Beauty.txt")


def _drawn(rng: np.random.Generator) -> Iterator[tuple[str, str, int, int, list[str]]]:
    for user in range(_SMOKE_USERS):
        for time in range(6):
            group = int(rng.integers(3))
            yield f"u{user}", f"i{group}-{rng.integers(20)}", time, 1, [f"group-{group}"]


def trained(
    known: Interactions, *, pooling: str, seed: int, name: str = "", epochs: int = EPOCHS, **settings: int
) -> TrainedNetwork:
    """Returns a network that is trained on choices; one that is kept is not trained again.

    Args:
        name: Of the kept run; the pooling's if not given.
        settings: Of `RecommenderConfig`, in place of its defaults.
    """
    folder = KEPT / f"{name or pooling}-{seed}"
    if not (folder / "training.json").exists():
        data = folder.with_suffix(".csv")
        KEPT.mkdir(parents=True, exist_ok=True)
        write_interactions(known, data)
        model = DINModel(out=folder, pooling=pooling, seed=seed, history_max=HISTORY_MAX, **settings)
        resume = (folder / "checkpoint.pt").exists()
        model.train(data, epochs, resume=resume, overwrite=not resume, on_progress=_told(folder))
    model = DINModel.load(folder)
    return TrainedNetwork(model, model.network, model.config)


def _told(folder: Path) -> OnProgress:
    def report(progress: TrainingProgress) -> None:
        if progress.held:
            print(folder.name, progress.epoch, progress.held, file=sys.stderr, flush=True)

    return report


def rank_everything(
    choices: Interactions, known: Interactions, networks: Mapping[str, Sequence[TrainedNetwork]]
) -> dict[str, FullRanking]:
    """Returns the full rankings of the first seed's networks and of the simple rankings, for some users."""
    rng = np.random.default_rng(4)
    users = np.sort(rng.permutation(len(choices.users))[:RANKED_USERS])
    everything = np.arange(len(choices.items))
    baselines = Baselines(known)
    found: dict[str, list[float]] = {}
    for user in users:
        own = choices.chosen[user]
        history = padded(own[:-1], HISTORY_MAX)
        scores: dict[str, npt.NDArray[np.floating]] = dict(baselines.parts(history, everything))
        for name, models in networks.items():
            scores[name] = score_all(models[0].network, history[None], everything[None])[0]
        for name, each in scores.items():
            others = np.delete(each, own)
            found.setdefault(name, []).append(float(ranks(each[own[-1:]], others[None])[0]))
    return {
        name: FullRanking(len(users), hit_rate(np.array(rank), 10), ndcg(np.array(rank), 10))
        for name, rank in found.items()
    }


def held_back_items(choices: Interactions, negatives: int) -> tuple[npt.NDArray[np.int64], Interactions, HeldChoices]:
    """Returns items, the choices before the last without these, and the users who chose one of them last."""
    rng = np.random.default_rng(6)
    cold = np.sort(rng.permutation(len(choices.items))[:COLD_ITEMS])
    known = choices.without_last()
    kept_rows = [np.flatnonzero(~np.isin(rows, cold)) for rows in known.chosen]
    users = [number for number, rows in enumerate(kept_rows) if len(rows) >= 2]
    without = dataclasses.replace(
        known,
        users=tuple(known.users[number] for number in users),
        chosen=tuple(known.chosen[number][kept_rows[number]] for number in users),
        shown=tuple(known.shown[number][kept_rows[number]] for number in users),
    )
    ends = [number for number, rows in enumerate(choices.chosen) if rows[-1] in set(cold.tolist())]
    last = dataclasses.replace(
        choices,
        users=tuple(choices.users[number] for number in ends),
        chosen=tuple(choices.chosen[number] for number in ends),
        shown=tuple(choices.shown[number] for number in ends),
    )
    held = held_choices(last, NegativeSampler(without), HISTORY_MAX, seed=0, users=len(ends), count=negatives)
    return cold, without, held
