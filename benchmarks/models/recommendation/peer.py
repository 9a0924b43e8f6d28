"""torch-rechub's DIN on the same choices: its network and its way of features, our sampler and stop.

It takes one value a feature: the item and the first of its attributes.
"""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.models.recommendation.baselines import aucs
from benchmarks.models.recommendation.data import HISTORY_MAX, KEPT
from lineside_converters.training.recommendation.config import RecommenderConfig
from lineside_converters.training.recommendation.interactions import Interactions
from lineside_converters.training.recommendation.objective import HeldChoices, RecommendationObjective

_FEATURES = 32
_AT_ONCE = 64


def cached_score(data: Interactions, held: HeldChoices, config: RecommenderConfig) -> npt.NDArray[np.float32]:
    """Returns `score`, kept from an earlier run."""
    path = KEPT / "torch-rechub.npy"
    if not path.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        np.save(path, score(data, held, config))
    found: npt.NDArray[np.float32] = np.load(path)
    return found


def score(data: Interactions, held: HeldChoices, config: RecommenderConfig) -> npt.NDArray[np.float32]:
    """Trains on ``data`` as its authors do (cross-entropy of each pair, Adam), and returns scores ``(users, C)``."""
    objective = RecommendationObjective(data, config)
    torch.manual_seed(config.seed)
    model = _network(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)
    first = torch.from_numpy(np.concatenate([[0], data.attribute_rows[:, 0]]))
    best, scores, worse = -1.0, np.zeros(0, np.float32), 0
    batches = objective.batches(0, lambda _: 0.0)
    for _ in range(config.epochs):
        model.train()
        for batch in itertools.islice(batches, objective.epoch_steps):
            found = model(_inputs(batch.histories, batch.candidates, first))
            right = torch.zeros(batch.candidates.shape)
            right[:, 0] = 1
            loss = torch.nn.functional.binary_cross_entropy(found, right.flatten(), reduction="none")
            kept = ~batch.left_out.flatten()
            optimizer.zero_grad()
            torch.autograd.backward((loss * kept).sum().div(kept.sum()))
            optimizer.step()
        gauc = float(np.mean([each.mean() for each in aucs(_score(model, objective.held, first)).values()]))
        if gauc > best:
            best, worse, scores = gauc, 0, _score(model, held, first)
        else:
            worse += 1
            if worse >= 2:
                break
    batches.close()
    return scores


def _network(data: Interactions) -> Any:
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import DIN

    sizes = {"item": len(data.items) + 1, "attribute": len(data.attributes) + 1}
    targets = [SparseFeature(name, size, _FEATURES) for name, size in sizes.items()]
    past = [
        SequenceFeature(f"past_{name}", size, _FEATURES, pooling="concat", shared_with=name, padding_idx=0)
        for name, size in sizes.items()
    ]
    return DIN(
        features=[SparseFeature("length", HISTORY_MAX + 1, _FEATURES)],  # it needs one
        history_features=past,
        target_features=targets,
        mlp_params={"dims": [128, 64]},
        attention_mlp_params={"dims": [36]},
    )


def _inputs(histories: torch.Tensor, candidates: torch.Tensor, first: torch.Tensor) -> dict[str, torch.Tensor]:
    past = (histories + 1).repeat_interleave(candidates.shape[1], 0)
    item = candidates.flatten() + 1
    length = (past > 0).sum(1)
    return {
        "item": item,
        "attribute": first[item],
        "past_item": past,
        "past_attribute": first[past],
        "length": length,
    }


@torch.no_grad()
def _score(model: Any, held: HeldChoices, first: torch.Tensor) -> npt.NDArray[np.float32]:
    model.eval()
    parts = []
    for at in range(0, len(held.histories), _AT_ONCE):
        candidates = torch.from_numpy(held.candidates[at : at + _AT_ONCE])
        histories = torch.from_numpy(held.histories[at : at + _AT_ONCE])
        parts.append(model(_inputs(histories, candidates, first)).reshape(candidates.shape))
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def is_installed() -> bool:
    """Returns whether torch-rechub is there."""
    return importlib.util.find_spec("torch_rechub") is not None
