"""Settings of the training of a recommender."""

from __future__ import annotations

from typing import Literal

from lineside_converters.training.settings import TrainingSettings


class RecommenderConfig(TrainingSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a recommender's training, beside those of every training.

    Attributes:
        data: One file or folder of interactions, see `lineside_converters.training.recommendation.interactions`.
        out: Folder for checkpoints and results; made if it is not there. An existing run is resumed only with
            ``resume``.
        batch: Choices a step at most; fewer where an epoch would have fewer than 100 steps.
        item_features: Length of an item's vector: half for its id, half for its attributes.
        user_features: Length of a user's vector: half attended by the candidate, half the mean of the history.
        attention_heads: Heads of the attention.
        history_max: Items of the longest history.
        uniform_negatives: Items drawn for each choice, every item alike.
        popular_negatives: Items drawn for each choice by their popularity. With uniform ones alone a network learns to
            rank by popularity.
        pooling: ``mean`` weighs all items of a history alike: what attention is compared with.
        dropout: Share of the hidden units that are left out.
        forget: Share of the ids that count as unknown, so that attributes alone speak.
        patience: Evaluations without a better one after which training ends.
    """

    epochs: int = 10
    batch: int = 512
    learning_rate: float = 2e-3
    evaluate_every: int = 1
    threads: int = 1
    item_features: int = 64
    user_features: int = 128
    attention_heads: int = 8
    history_max: int = 20
    uniform_negatives: int = 6
    popular_negatives: int = 2
    pooling: Literal["attention", "mean"] = "attention"
    dropout: float = 0.2
    forget: float = 0.2
    patience: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("batch", self.batch >= 2, "2 or more")
        self._check("data", len(self.data) == 1, "one file or folder")
        self._check("start", self.start is None, "none: a recommender begins with random weights")
        self._check("item_features", self.item_features >= 4 and self.item_features % 2 == 0, "an even number from 4")
        heads, half = self.attention_heads, self.user_features // 2
        self._check("attention_heads", heads >= 1, "1 or more")
        fits = self.user_features % 2 == 0 and half >= heads and half % heads == 0
        self._check("user_features", fits, f"twice a multiple of attention_heads = {heads}")
        self._check("history_max", 1 <= self.history_max <= 1000, "between 1 and 1000")
        self._check("uniform_negatives", self.uniform_negatives >= 0, "0 or more")
        self._check("popular_negatives", self.popular_negatives >= 0, "0 or more")
        drawn = self.uniform_negatives + self.popular_negatives
        self._check("uniform_negatives", drawn >= 1, "1 or more together with popular_negatives")
        self._check("dropout", 0 <= self.dropout < 1, "0 to 1")
        self._check("forget", 0 <= self.forget < 1, "0 to 1")
        self._check("patience", self.patience >= 1, "1 or more")
