"""Objective of token classifiers: batches of windows, their loss, and F1 of values on the held-out documents."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lineside_converters.training.data.batches import ahead
from lineside_converters.training.documents.data import DocumentData
from lineside_converters.training.objective import Done, LabelledObjective, Outputs
from lineside_converters.training.strategy import Parts, whole
from lineside_models.networks.token_classifier import TokenClassifier
from lineside_models.nlp.document_sets.annotations import AnnotatedDocument, Values
from lineside_models.nlp.extraction.spans import Floats, Mention, TokenProbabilities
from lineside_models.nlp.extraction.windows import TextWindows, batches
from lineside_models.nlp.normalization.values import value_key

TAG_WEIGHTS = (1.0, 4.0, 4.0)
"""Few tokens are inside a mention."""

IGNORED = -100

HIDDEN_MAX_BYTES = 2 << 30
"""Of the frozen layers' outputs that are kept."""


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """One step's input.

    Attributes:
        ids: ``(B, T) int64``.
        tags: ``(B, T, types) int64``; -100 where there is no token.
        hidden: ``(B, T, W)``, what the frozen layers give; ``None`` where it is not kept.
    """

    ids: Tensor
    tags: Tensor
    hidden: Tensor | None = None


class DocumentObjective(LabelledObjective[WindowBatch]):
    """Windows of annotated documents."""

    def __init__(
        self, data: DocumentData, single: Sequence[str], *, batch: int, seed: int, bf16: bool, part: Parts = whole
    ) -> None:
        """Takes the data.

        Args:
            single: Types of which a document has one value.
        """
        self.data, self._single = data, tuple(single)
        self._size, self._seed, self._bf16, self._part = batch, seed, bf16, part
        self._hidden: list[Tensor] = []
        self.epoch_steps = max(1, len(data.train) // batch)
        self.facts: dict[str, Any] = {
            "types": len(data.labels),
            "documents": len(data.trained),
            "windows": len(data.train),
            "held": len(data.held),
        }

    def keep_hidden(self, model: TokenClassifier) -> None:
        """Computes the frozen layers' output for each window once, if it fits into memory."""
        tokens = sum(len(one.window.ids) for one in self.data.train)
        if not model.frozen or 2 * tokens * model.shape.hidden_size > HIDDEN_MAX_BYTES:
            return
        model.eval()
        for one in self.data.train:
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
                found = model.lower(torch.from_numpy(one.window.ids[None]))[0]
            self._hidden.append(found.to(torch.bfloat16))

    def batches(self, first_step: int, done: Done) -> Generator[WindowBatch, None, None]:
        """Yields shuffled batches of windows of alike lengths."""
        return ahead(self._batch, first_step, lambda step: done(step) < 1)

    def images(self, batch: WindowBatch) -> Tensor:
        """Returns ``(B, T)``."""
        return batch.ids

    def true_loss(self, outputs: Outputs, batch: WindowBatch) -> Tensor:
        """Returns the weighted cross-entropy of the tags."""
        logits = outputs[0].float()
        weight = torch.tensor(TAG_WEIGHTS)
        return F.cross_entropy(logits.reshape(-1, 3), batch.tags.reshape(-1), weight=weight, ignore_index=IGNORED)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns the F1 of the values of the held-out documents."""
        return {"f1": self.f1_of(self.read_held(model, bf16=self._bf16))}

    def read_held(self, model: nn.Module, *, bf16: bool = False) -> list[TokenProbabilities]:
        """Returns what a network says of the held-out documents."""
        model.eval()
        data = self.data
        return [probabilities_of(model, data.windows, one.text, data.labels, bf16=bf16) for one in data.held]

    def f1_of(self, seen: Sequence[TokenProbabilities]) -> float:
        """Returns the F1 of the values of the held-out documents by what `read_held` returned."""
        right = found = true = 0
        for document, said in zip(self.data.held, seen, strict=True):
            values = self._values(said.mentions(document.text), document)
            for label in self.data.labels:
                ours, theirs = values.get(label, set()), document.values.get(label, set())
                right, found, true = right + len(ours & theirs), found + len(ours), true + len(theirs)
        return 2 * right / max(1, found + true)

    def _values(self, mentions: Sequence[Mention], document: AnnotatedDocument) -> Values:
        best: dict[str, dict[str, float]] = {}
        for one in mentions:
            key = value_key(one.type, document.text[one.start : one.end])
            scores = best.setdefault(one.type, {})
            scores[key] = max(one.score, scores.get(key, 0.0))
        values: Values = {}
        for label, scores in best.items():
            likeliest = max(scores, key=lambda key: scores[key])
            values[label] = {likeliest} if label in self._single else set(scores)
        return values

    def _batch(self, step: int, *, strong: bool) -> WindowBatch:
        del strong
        lap, at = divmod(step, self.epoch_steps)
        rng = np.random.default_rng((self._seed, 1, lap))
        order = rng.permutation(len(self.data.train))
        lengths = np.array([len(self.data.train[number].window.ids) for number in order])
        order = order[np.argsort(lengths // 64, kind="stable")]  # alike lengths together: less padding
        starts = rng.permutation(self.epoch_steps)
        chosen = order[starts[at] * self._size : (starts[at] + 1) * self._size]
        part = self._part(step)
        if part is not None:
            chosen = chosen[part.rows(len(chosen))]
        rows = [self.data.train[int(number)] for number in chosen]
        longest = max((len(row.window.ids) for row in rows), default=2)
        ids = np.zeros((len(rows), longest), np.int64)
        tags = np.full((len(rows), longest, len(self.data.labels)), IGNORED, np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row.window.ids)] = row.window.ids
            tags[number, 1 : 1 + len(row.tags)] = row.tags
        hidden = None
        if self._hidden:
            kept = [self._hidden[int(number)] for number in chosen]
            hidden = nn.utils.rnn.pad_sequence(kept, batch_first=True).float()
        return WindowBatch(torch.from_numpy(ids), torch.from_numpy(tags), hidden)


@torch.no_grad()
def probabilities_of(
    model: nn.Module, windows: TextWindows, text: str, labels: Sequence[str], *, bf16: bool = False
) -> TokenProbabilities:
    """Returns what a network says of a text."""
    cut = windows(text)
    logits: list[Floats] = [np.zeros((0, 0, 3))] * len(cut)
    for numbers, ids in batches(cut):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = model(torch.from_numpy(ids)).float().numpy()
        for row, number in enumerate(numbers):
            logits[number] = out[row]
    return TokenProbabilities(cut, logits, labels)
