"""Objective of recommenders: histories, drawn negatives, loss, and GAUC on each user's last choice."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lineside_converters.training.data.batches import ahead
from lineside_converters.training.objective import Done, LabelledObjective, Outputs
from lineside_converters.training.recommendation.config import RecommenderConfig
from lineside_converters.training.recommendation.interactions import Interactions, Ints
from lineside_converters.training.strategy import Parts, rng_of, whole
from lineside_models.recommendation.metrics import user_auc

HELD_USERS = 4000
EPOCH_STEPS_MIN = 100
"""Of little data, smaller batches are made, so that an epoch is not a few steps."""

BATCH_MIN = 16
HELD_NEGATIVES = 50
KINDS = ("uniform", "popular")
_IGNORED = -1e9
_AT_ONCE = 256
_TRIES = 20


@dataclass(frozen=True, slots=True)
class ChoiceBatch:
    """One step's input.

    Attributes:
        histories: ``(B, H) int64``, -1 before a shorter one.
        candidates: ``(B, C) int64``, the chosen item first.
        left_out: ``(B, C) bool``: candidates that are no negatives, such as the chosen item once more.
    """

    histories: Tensor
    candidates: Tensor
    left_out: Tensor


class NegativeSampler:
    """Draws items that users did not choose."""

    def __init__(self, data: Interactions) -> None:
        self._items = len(data.items)
        counts = data.popularity().astype(np.float64)
        self._popular = np.cumsum(counts / counts.sum())

    def draw(self, kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Ints:
        """Returns rows of items, uniform or by popularity."""
        if kind == "uniform":
            return rng.integers(0, self._items, shape)
        return np.minimum(np.searchsorted(self._popular, rng.random(shape)), self._items - 1).astype(np.int64)

    def draw_unchosen(self, kind: str, chosen: Ints, count: int, rng: np.random.Generator) -> Ints:
        """Returns ``(count,)`` rows that are not among a user's own; of a user who chose all, other than the last."""
        found = self.draw(kind, (count,), rng)
        for _ in range(_TRIES):
            if not (bad := np.isin(found, chosen)).any():
                return found
            found[bad] = self.draw(kind, (int(bad.sum()),), rng)
        others = np.setdiff1d(np.arange(self._items), chosen)
        if not len(others):
            others = np.delete(np.arange(self._items), chosen[-1:] if self._items > 1 else [])
        bad = np.isin(found, chosen)
        found[bad] = rng.choice(others, int(bad.sum()))
        return found


class ChoiceSampler:
    """Makes batches of choices with their histories and drawn negatives.

    Args:
        data: All choices; each but a user's first is a target.
    """

    def __init__(self, data: Interactions, config: RecommenderConfig) -> None:
        self._config = config
        self.negatives = NegativeSampler(data)
        self._flat = np.concatenate(data.chosen)
        self._shown = np.concatenate(data.shown)
        lengths = np.array([len(each) for each in data.chosen])
        begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._known = np.arange(len(self._flat)) - np.repeat(begins, lengths)
        self._left = np.repeat(lengths, lengths) - self._known
        self.targets: Ints = np.flatnonzero(self._known > 0)

    def last(self, counts: Ints) -> Ints:
        """Returns the places of each user's last choices that are targets, ``counts`` of them by user."""
        lengths = np.bincount(np.cumsum(self._known == 0) - 1)
        return np.flatnonzero((self._left <= np.repeat(counts, lengths)) & (self._known > 0))

    def items_at(self, targets: Ints) -> Ints:
        """Returns the chosen items."""
        found: Ints = self._flat[targets]
        return found

    def batch(self, targets: Ints, rng: np.random.Generator) -> ChoiceBatch:
        """Returns targets with their histories and drawn negatives."""
        config = self._config
        histories = self._histories(targets)
        shown = self._shown[targets]
        drawn = [
            self.negatives.draw("uniform", (len(targets), config.uniform_negatives), rng),
            self.negatives.draw("popular", (len(targets), config.popular_negatives), rng),
        ]
        candidates = np.concatenate([self._flat[targets][:, None], *drawn, np.maximum(shown, 0)], 1)
        left_out = candidates == candidates[:, :1]
        left_out[:, candidates.shape[1] - shown.shape[1] :] |= shown < 0
        left_out[:, 0] = False
        width = candidates.shape[1] - (0 if (shown >= 0).any() else shown.shape[1])
        return ChoiceBatch(*map(torch.from_numpy, (histories, candidates[:, :width], left_out[:, :width])))

    def _histories(self, targets: Ints) -> Ints:
        back = np.arange(self._config.history_max, 0, -1)
        places = targets[:, None] - back
        return np.where(back <= self._known[targets][:, None], self._flat[np.maximum(places, 0)], -1)


def choice_loss(scores: Tensor, batch: ChoiceBatch) -> Tensor:
    """Returns the cross-entropy of the chosen item among its negatives."""
    scores = scores.masked_fill(batch.left_out, _IGNORED)
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))


class RecommendationObjective(LabelledObjective[ChoiceBatch]):
    """Choices of users; the last choice of each user is held out to choose the weights.

    Attributes:
        trained_on: The choices without those.
    """

    def __init__(self, data: Interactions, config: RecommenderConfig, part: Parts = whole) -> None:
        self._config, self._part = config, part
        self.trained_on = trained_share(data)
        self._sampler = ChoiceSampler(self.trained_on, config)
        self.held = held_choices(data, self._sampler.negatives, config.history_max, seed=config.seed)
        targets = len(self._sampler.targets)
        self._batch_size = min(config.batch, max(BATCH_MIN, targets // EPOCH_STEPS_MIN))
        self.epoch_steps = max(1, targets // self._batch_size)
        self.facts: dict[str, Any] = {
            "users": len(data.users),
            "items": len(data.items),
            "attributes": len(data.attributes),
            "train_choices": len(self._sampler.targets),
            "held_users": len(self.held.histories),
        }

    def batches(self, first_step: int, done: Done) -> Generator[ChoiceBatch, None, None]:
        """Yields shuffled batches."""
        return ahead(self._batch, first_step, lambda step: done(step) < 1)

    def images(self, batch: ChoiceBatch) -> Tensor:
        """Returns the histories."""
        return batch.histories

    def true_loss(self, outputs: Outputs, batch: ChoiceBatch) -> Tensor:
        """Returns `choice_loss`."""
        return choice_loss(outputs[0], batch)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns GAUC against uniform and against popular negatives, on the held-out choices."""
        scores = score_all(model, self.held.histories, self.held.candidates)
        groups = np.split(scores[:, 1:], len(KINDS), axis=1)
        return {
            f"gauc_{kind}": float(user_auc(scores[:, 0], group).mean())
            for kind, group in zip(KINDS, groups, strict=True)
        }

    def _batch(self, step: int, *, strong: bool) -> ChoiceBatch:
        del strong
        config, part = self._config, self._part(step)
        lap, at = divmod(step, self.epoch_steps)
        order = np.random.default_rng((config.seed, 1, lap)).permutation(self._sampler.targets)
        chosen = order[at * self._batch_size : (at + 1) * self._batch_size]
        if part is not None:
            chosen = chosen[part.rows(len(chosen))]
        return self._sampler.batch(chosen, rng_of(config.seed, step, part))


def trained_share(data: Interactions) -> Interactions:
    """Returns the choices without each user's last, by which the weights are chosen."""
    return data.without_last() if any(len(each) > 2 for each in data.chosen) else data


@dataclass(frozen=True, slots=True)
class HeldChoices:
    """Each user's last choice among items that the user never chose.

    Attributes:
        histories: ``(users, H) int64``, -1 before a shorter one.
        candidates: ``(users, 1 + 2 n) int64``: the chosen item, n uniform and n popular others.
    """

    users: Ints
    histories: Ints
    candidates: Ints


def held_choices(
    data: Interactions,
    negatives: NegativeSampler,
    history_max: int,
    *,
    seed: int,
    users: int = HELD_USERS,
    count: int = HELD_NEGATIVES,
) -> HeldChoices:
    """Returns the last choices of some users; the same for the same seed.

    Args:
        data: With the choices to predict.
        negatives: By the popularity of what was known before.
        history_max: Length of the histories.
        seed: Of the choice of users and negatives.
        users: Number of users at most.
        count: Negatives of each kind.
    """
    rng = np.random.default_rng((seed, 2))
    picked = np.sort(rng.permutation(len(data.users))[:users])
    histories, candidates = [], []
    for number in picked:
        own = data.chosen[number]
        histories.append(padded(own[:-1], history_max))
        drawn = [negatives.draw_unchosen(kind, own, count, rng) for kind in KINDS]
        candidates.append(np.concatenate([own[-1:], *drawn]))
    return HeldChoices(picked, np.stack(histories), np.stack(candidates))


def padded(rows: npt.NDArray[np.int64], length: int) -> Ints:
    """Returns the last ``length`` rows, with -1 before fewer."""
    last = rows[-length:]
    return np.concatenate([np.full(length - len(last), -1), last]).astype(np.int64)


@torch.no_grad()
def score_all(
    model: Callable[[Tensor, Tensor], Tensor] | nn.Module, histories: Ints, candidates: Ints
) -> npt.NDArray[np.float32]:
    """Returns scores ``(users, C)`` of candidates for histories."""
    if isinstance(model, nn.Module):
        model.eval()
    found = [
        model(torch.from_numpy(histories[at : at + _AT_ONCE]), torch.from_numpy(candidates[at : at + _AT_ONCE]))
        for at in range(0, len(histories), _AT_ONCE)
    ]
    return np.asarray(torch.cat(found).numpy(), np.float32)
