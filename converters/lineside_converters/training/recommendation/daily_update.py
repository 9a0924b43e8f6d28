"""Daily update of a trained recommender: only the embeddings of the items that were just chosen change.

The scorer, the attributes and every other row stay as they are, to the bit, so that a patch of the bundle holds little
more than those rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lineside_converters.training.recommendation.config import RecommenderConfig
from lineside_converters.training.recommendation.interactions import Interactions, Ints
from lineside_converters.training.recommendation.objective import ChoiceSampler, choice_loss
from lineside_converters.training.recommendation.trainer import build_network
from lineside_models.networks.din import InterestNetwork

LEARNING_RATE = 1e-3


def update_network(
    network: InterestNetwork,
    known: Interactions,
    merged: Interactions,
    counts: Ints,
    config: RecommenderConfig,
    *,
    epochs: int,
) -> InterestNetwork:
    """Returns the network after the newest choices.

    Args:
        network: As it was trained on ``known``.
        merged: Those and the newer ones behind them.
        counts: How many of each user's last choices are new, ``(users,)``.
        epochs: Passes over the new choices.
    """
    updated = grown(network, known, merged, config)
    sampler = ChoiceSampler(merged, config)
    targets = sampler.last(counts)
    touched = torch.zeros(len(merged.items) + 2, 1)
    touched[torch.from_numpy(np.unique(sampler.items_at(targets)))] = 1
    tables = (updated.embedding.ids.weight, updated.embedding.bias.weight)
    for parameter in updated.parameters():
        parameter.requires_grad_(False)
    for table in tables:
        table.requires_grad_(True).register_hook(_only(touched))  # type: ignore[no-untyped-call]  # torch's
    optimizer = torch.optim.Adam(tables, lr=LEARNING_RATE)  # rows without a gradient do not move
    rng = np.random.default_rng((config.seed, 3))
    updated.train()
    for _ in range(epochs if len(targets) else 0):
        order = rng.permutation(targets)
        for at in range(0, len(order), config.batch):
            batch = sampler.batch(order[at : at + config.batch], rng)
            loss = choice_loss(updated(batch.histories, batch.candidates), batch)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return updated.eval()


@torch.no_grad()
def grown(
    network: InterestNetwork, known: Interactions, merged: Interactions, config: RecommenderConfig
) -> InterestNetwork:
    """Returns the network with rows for new items and attributes; new items begin as the unknown one."""
    larger = build_network(config, merged, merged.popularity() > 0)
    larger.scorer.load_state_dict(network.scorer.state_dict())
    old, new = network.embedding, larger.embedding
    rows = known.rows_of(merged.items)
    rows = np.concatenate([np.where(rows < 0, old.unknown, rows), [old.unknown, old.empty]])
    own = old.id_rows[torch.from_numpy(rows)]
    for name in ("ids", "bias"):
        getattr(new, name).weight.copy_(getattr(old, name).weight[own])
    numbers = {name: number for number, name in enumerate(known.attributes, 1)}
    kept = np.array([0, *(numbers.get(name, 0) for name in merged.attributes)])
    new.attributes.weight.copy_(old.attributes.weight[torch.from_numpy(kept)])
    return larger


def _only(touched: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * touched
