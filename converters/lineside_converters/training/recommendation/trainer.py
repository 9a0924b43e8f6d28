"""Training of a recommender."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.training.initial_weights import FACTS, InitialModel
from lineside_converters.training.loop import BEST
from lineside_converters.training.progress import OnProgress
from lineside_converters.training.recommendation.config import RecommenderConfig
from lineside_converters.training.recommendation.interactions import Interactions, read_interactions
from lineside_converters.training.recommendation.objective import RecommendationObjective
from lineside_converters.training.trainer import Trainer, log
from lineside_models.networks.din import (
    BIAS,
    CANDIDATES,
    HISTORY,
    SCORES,
    InterestNetwork,
    InterestScorer,
    ItemEmbedding,
)
from lineside_models.recommendation.tables import encode_ids
from lineside_runtime.errors import TrainingError
from lineside_runtime.files import write_atomic

__all__ = ["FACTS", "TABLES", "RecommenderResult", "RecommenderTrainer", "build_network", "train_recommender"]

TABLES = "tables.npz"
"""Float tables of the chosen weights, with the ids, beside ``float.onnx``."""


class RecommenderResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a run.

    Attributes:
        weights: ``best.pt``, a state dict.
        onnx: ``float.onnx``: the scorer of the same weights.
        tables: ``tables.npz``: their embeddings.
        facts: ``training.json``.
        held_gauc: GAUC on each user's last choice, by the kind of the negatives.
    """

    weights: str
    onnx: str
    tables: str
    facts: str
    held_gauc: dict[str, float]


def train_recommender(config: RecommenderConfig, on_progress: OnProgress) -> RecommenderResult:
    """Trains a recommender, and chooses the weights by each user's last choice.

    Writes ``config.toml``, ``checkpoint.pt`` (each epoch), ``curves.html`` and ``best.pt`` (each evaluation),
    ``float.onnx``, ``tables.npz`` and ``training.json`` into ``config.out``.

    Raises:
        TrainingError: The settings or the checkpoint are not usable, or the loss is not finite.
        DatasetError: The data is not usable.
    """
    trainer = RecommenderTrainer(config, on_progress)
    trainer.train()
    return trainer.finish()


class RecommenderTrainer(Trainer[RecommenderConfig, RecommendationObjective, RecommenderResult]):
    """Training of a deep interest network."""

    figure = "GAUC"
    warm_up_steps = 100

    def load(self) -> RecommendationObjective:
        """Reads the interactions."""
        self.data: Interactions = read_interactions(self.config.data[0])
        self.patience = self.config.patience
        return RecommendationObjective(self.data, self.config, self.strategy.part)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Returns the loss of a network on a batch."""
        return self.objective.true_loss((model(batch.histories, batch.candidates),), batch)

    def adapt(self, start: InitialModel) -> str:
        """Refuses a model to start from."""
        raise TrainingError("a recommender begins with random weights", action="Leave start out.")

    def pretrained(self) -> InterestNetwork:
        """Builds the network with random weights."""
        log.info("%d users, %d items, %d choices", len(self.data.users), len(self.data.items), self.data.count)
        return self.build()

    def build(self) -> InterestNetwork:
        """Builds the network with random weights."""
        return build_network(self.config, self.data, self.objective.trained_on.popularity() > 0)

    def export(self, model: nn.Module, path: Path) -> float:
        """Writes the scorer."""
        scorer: InterestScorer = model.scorer  # type: ignore[assignment]  # of `build`
        return export_onnx(
            scorer,
            path,
            example=_example(self.config, 5, 7),
            input_name=(HISTORY, CANDIDATES, BIAS),
            output_names=[SCORES],
            dynamic_axes={
                HISTORY: {0: "B", 1: "H"},
                CANDIDATES: {0: "B", 1: "C"},
                BIAS: {0: "B", 1: "C"},
                SCORES: {0: "B", 1: "C"},
            },
            check=[_example(self.config, 1, 1), _example(self.config, self.config.history_max, 200)],
        )

    def examples(self) -> Sequence[Tensor]:
        """Returns nothing: no model to start from is closed."""
        return ()

    def result(self, model: nn.Module, difference: float) -> RecommenderResult:
        """Evaluates, and writes tables and facts."""
        config = self.config
        write_float_tables(model.embedding, self.data, config.out)
        held = self.objective.evaluate(model)
        facts = {"settings": config.as_dict(), "interactions": self.objective.facts, "held_gauc": held}
        return RecommenderResult(
            weights=str(config.out / BEST),
            onnx=str(config.out / "float.onnx"),
            tables=str(config.out / TABLES),
            facts=str(self.write_facts("din", facts, difference)),
            held_gauc=held,
        )


def build_network(config: RecommenderConfig, data: Interactions, chosen: npt.NDArray[np.bool_]) -> InterestNetwork:
    """Returns a network with random weights; ``chosen`` are the items ``(items,)`` whose ids are trained."""
    rows = np.concatenate([data.attribute_rows, np.zeros((2, data.attribute_rows.shape[1]), np.int64)])
    embedding = ItemEmbedding(
        torch.from_numpy(rows), torch.from_numpy(chosen), len(data.attributes), config.item_features
    )
    scorer = InterestScorer(
        config.item_features,
        config.user_features,
        config.attention_heads,
        config.history_max,
        config.pooling,
        config.dropout,
    )
    return InterestNetwork(embedding, scorer, config.forget)


def write_float_tables(embedding: Any, data: Interactions, folder: Path) -> None:
    """Writes ``tables.npz``."""
    buffer = io.BytesIO()
    np.savez(buffer, **tables_of(embedding, data))  # type: ignore[arg-type]  # numpy's stub of **kwds
    write_atomic(folder / TABLES, buffer.getvalue())


def tables_of(embedding: Any, data: Interactions) -> dict[str, npt.NDArray[Any]]:
    """Returns the float tables of a network, as `lineside_models.recommendation.tables.write_tables` takes them."""
    vectors = {name: value.detach().cpu().numpy() for name, value in embedding.state_dict().items()}
    return {
        "items": encode_ids(data.items),
        "item_vectors": vectors["ids.weight"][vectors["id_rows"]],
        "item_bias": vectors["bias.weight"][vectors["id_rows"], 0],
        "item_attributes": vectors["attribute_rows"],
        "attributes": encode_ids(data.attributes),
        "attribute_vectors": vectors["attributes.weight"],
    }


def _example(config: RecommenderConfig, history: int, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(history)
    shapes = ((1, history, config.item_features), (1, candidates, config.item_features), (1, candidates))
    history_, candidates_, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return history_, candidates_, bias
