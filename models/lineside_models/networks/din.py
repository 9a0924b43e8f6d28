"""Deep interest network: a candidate item attends to a user's history (Zhou et al. 2018, arXiv:1706.06978).

An item is a vector: the embedding of its id beside the mean of its attributes' embeddings. `ItemEmbedding` makes the
vectors and stays on the host; its tables travel in the bundle. `InterestScorer` ranks vectors and is what is exported.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

HISTORY, CANDIDATES, BIAS, SCORES = "history", "candidates", "bias", "scores"
"""Names of the inputs and of the output."""

Pooling = Literal["attention", "mean"]

_MASKED = -1e4
_FIRST_STD = 0.02


class ItemEmbedding(nn.Module):
    """Vectors of items by their rows.

    The last two rows of the table are the *unknown* item (an id that the training did not see) and the *empty* one
    (what stands in place of a history that has no item).

    Args:
        attribute_rows: ``(items + 2, K) int64``, rows of each item's attributes, from 1; 0 for none.
        chosen: ``(items,) bool``: items that somebody chose; the others share the unknown id, as negatives alone would
            teach them a bad one.
        features: Length of a vector; half for the id, half for the attributes.
    """

    def __init__(self, attribute_rows: Tensor, chosen: Tensor, attributes: int, features: int) -> None:
        super().__init__()
        rows, half = len(attribute_rows), features // 2
        self.unknown, self.empty = rows - 2, rows - 1
        self.ids = nn.Embedding(rows, half)
        self.attributes = nn.Embedding(attributes + 1, features - half)
        self.bias = nn.Embedding(rows, 1)
        for table in (self.ids, self.attributes):
            nn.init.normal_(table.weight, std=_FIRST_STD)
        nn.init.zeros_(self.bias.weight)
        own = torch.arange(rows)
        own[:-2][~chosen] = self.unknown
        self.register_buffer("attribute_rows", attribute_rows)
        self.register_buffer("id_rows", own)
        self.attribute_rows: Tensor
        self.id_rows: Tensor

    def forward(self, rows: Tensor, forgotten: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns vectors ``(..., features)`` and biases ``(...)``.

        Args:
            forgotten: Of that shape: items whose id counts as unknown, so that their attributes alone speak.
        """
        own = self.attribute_rows[rows]
        given = (own > 0).to(self.attributes.weight.dtype).unsqueeze(-1)
        described = (self.attributes(own) * given).sum(-2) / given.sum(-2).clamp(min=1)
        rows = self.id_rows[rows]
        if forgotten is not None:
            rows = torch.where(forgotten, self.unknown, rows)
        return torch.cat([self.ids(rows), described], -1), self.bias(rows).squeeze(-1)


class InterestScorer(nn.Module):
    """Scores of candidates for a history, both as vectors.

    Args:
        item_features: Length of an item's vector.
        user_features: Length of a user's: half attended by the candidate, half the mean of the history.
        history_max: Items of the longest history.
        pooling: ``mean`` weighs all items of a history alike: what attention is compared with.
        dropout: Share of the hidden units that are left out in training.
    """

    def __init__(
        self,
        item_features: int = 64,
        user_features: int = 128,
        heads: int = 8,
        history_max: int = 20,
        pooling: Pooling = "attention",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        half = user_features // 2
        self.heads, self.history_max, self.pooling = heads, history_max, pooling
        self.query = nn.Linear(item_features, half)
        self.key = nn.Linear(item_features, half)
        self.value = nn.Linear(item_features, half)
        self.position = nn.Parameter(torch.zeros(heads, history_max))
        self.pair = nn.Linear(2 * half + item_features + heads, 128)
        self.user = nn.Linear(half, 128, bias=False)  # once a user, not once a candidate
        self.score = nn.Sequential(
            nn.PReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, 64),
            nn.PReLU(),
            nn.Linear(64, 1),
        )

    def forward(self, history: Tensor, candidates: Tensor, bias: Tensor, present: Tensor | None = None) -> Tensor:
        """Returns scores ``(B, C)``, higher is better.

        Args:
            history: ``(B, H, item_features)``, the newest item last; H from 1 to ``history_max``.
            candidates: ``(B, C, item_features)``.
            bias: ``(B, C)``.
            present: ``(B, H)``, false where a shorter history is padded at its begin; ``None`` where none is.
        """
        query, key, value = (
            self._split(each) for each in (self.query(candidates), self.key(history), self.value(history))
        )
        match = query @ key.transpose(2, 3) + self.position[:, self.history_max - history.shape[1] :][None, :, None]
        there = None if present is None else present[:, None, None]
        weights, strength = self._weights(match, there)
        attended = self._join(weights @ value)
        parts = [attended, candidates, attended * self._join(query), strength.transpose(1, 2)]
        hidden = self.pair(torch.cat(parts, -1)) + self.user(_mean(value, there))[:, None]
        raw: Tensor = self.score(hidden)
        return raw.squeeze(-1) + bias

    def _split(self, tensor: Tensor) -> Tensor:
        """Returns ``(B, heads, N, size)``."""
        heads: Tensor = tensor.reshape(*tensor.shape[:2], self.heads, -1)
        return heads.transpose(1, 2)

    def _join(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2).flatten(2)

    def _weights(self, match: Tensor, there: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the weights ``(B, heads, C, H)`` and how well the history matches, ``(B, heads, C)``."""
        if there is not None:
            match = match.masked_fill(~there, 0.0 if self.pooling == "mean" else _MASKED)
        given = torch.ones_like(match) if there is None else there.to(match.dtype).expand_as(match)
        count = given.sum(-1, keepdim=True).clamp(min=1)
        if self.pooling == "mean":
            return given / count, (match.sum(-1, keepdim=True) / count).squeeze(-1)
        top = match.amax(-1, keepdim=True).detach()
        likely = torch.exp(match - top)
        total = likely.sum(-1, keepdim=True)
        return likely / total, (torch.log(total / count) + top).squeeze(-1)


def _mean(value: Tensor, there: Tensor | None) -> Tensor:
    """Returns the mean ``(B, heads * size)`` over a history ``(B, heads, H, size)``."""
    if there is None:
        return value.mean(2).flatten(1)
    given = there.transpose(2, 3).to(value.dtype)
    return ((value * given).sum(2) / given.sum(2).clamp(min=1)).flatten(1)


class InterestNetwork(nn.Module):
    """Embedding and scorer: scores from rows of items, for training.

    Args:
        forget: Share of the ids that count as unknown in training: a regularizer, and how attributes learn to rank an
            item that nobody has chosen yet.
    """

    def __init__(self, embedding: ItemEmbedding, scorer: InterestScorer, forget: float = 0.2) -> None:
        super().__init__()
        self.embedding, self.scorer, self.forget = embedding, scorer, forget

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Returns scores ``(B, C)``.

        Args:
            history: ``(B, H) int64``, -1 where a shorter history is padded at its begin.
            candidates: ``(B, C) int64``.
        """
        present = history >= 0
        rows = torch.where(present, history, self.embedding.empty)
        empty = ~present.any(1, keepdim=True)
        last = torch.arange(rows.shape[1], device=rows.device) == rows.shape[1] - 1
        present = present | (empty & last)
        past, _ = self.embedding(rows, self._forgotten(rows))
        vectors, bias = self.embedding(candidates, self._forgotten(candidates))
        scores: Tensor = self.scorer(past, vectors, bias, present)
        return scores

    def _forgotten(self, rows: Tensor) -> Tensor | None:
        if not self.training or not self.forget:
            return None
        drawn = torch.rand(rows.shape, device=rows.device) < self.forget
        return drawn & (rows != self.embedding.empty)
