"""Fit a small head to features that are all in memory: AdamW, a cosine schedule, minibatches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from lineside_converters.settings import CheckedSettings
from lineside_runtime.errors import TrainingError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class FittingSettings(CheckedSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a fit.

    Attributes:
        epochs: Passes over the features.
        batch: Rows a step.
        learning_rate: At the beginning; it falls to 0 by a half cosine.
        weight_decay: Of the linear layers; a circuit's angles have none.
    """

    epochs: int = 60
    batch: int = 64
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        self._check("epochs", self.epochs >= 1, "1 or more")
        self._check("batch", self.batch >= 1, "1 or more")
        self._check("learning_rate", 0 < self.learning_rate < 1, "between 0 and 1")
        decays = 0 <= self.weight_decay < 1 / self.learning_rate
        self._check("weight_decay", decays, "0 or more, below 1 / learning_rate")


def standardize(network: nn.Module, features: Floats) -> None:
    """Sets the buffers ``mean`` and ``std`` of a network by the features ``(n, F)`` that it is trained on."""
    spread = features.std(axis=0)
    network.get_buffer("mean").copy_(torch.from_numpy(features.mean(axis=0)))
    network.get_buffer("std").copy_(torch.from_numpy(np.where(spread > 0, spread, 1).astype(np.float32)))


def fit(
    network: nn.Module,
    features: Floats,
    labels: Ints,
    settings: FittingSettings,
    *,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Trains a network on features, in place.

    Args:
        network: Features ``(B, F)`` in, logits out.
        features: ``(n, F)``.
        labels: ``(n,)``.
        seed: Of the order of the rows.
        on_epoch: Told the number of each epoch, from 1, and its mean loss.

    Raises:
        TrainingError: The loss is not finite.
    """
    rows, wanted = torch.from_numpy(features), torch.from_numpy(labels)
    angles = [value for name, value in network.named_parameters() if name.startswith("circuit.")]
    rest = [value for name, value in network.named_parameters() if not name.startswith("circuit.")]
    groups: list[dict[str, Any]] = [{"params": rest}]
    if angles:
        groups.append({"params": angles, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    order = torch.Generator().manual_seed(seed)
    network.train()
    for epoch in range(settings.epochs):
        losses = []
        chosen = torch.split(torch.randperm(len(rows), generator=order), settings.batch)
        for step, batch in enumerate(chosen):
            done = (epoch + step / len(chosen)) / settings.epochs
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * done)) / 2
            loss = F.cross_entropy(network(rows[batch]), wanted[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            optimizer.step()
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        if not math.isfinite(mean):
            raise TrainingError("the loss is not finite", actual=mean, action="Take a lower learning rate.")
        on_epoch(epoch + 1, mean)
    network.eval()


@torch.no_grad()
def predict(network: nn.Module, features: Floats) -> Ints:
    """Returns the likeliest class ``(n,)`` of features ``(n, F)``."""
    return np.asarray(network(torch.from_numpy(features)).argmax(1).numpy(), np.int64)
