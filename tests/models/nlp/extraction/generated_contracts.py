"""Contracts by a template, and an encoder small enough to train in a test. Nobody's data."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from lineside_models.networks.token_classifier import EncoderShape, TextTrunk

SHAPE = EncoderShape(
    vocab_size=0, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=160,
)  # fmt: skip

_NAMES = ("Northwind", "Acme", "Harbour", "Granite", "Falcon", "Copper", "Delta", "Summit", "Orchid", "Juniper")
_TRADES = ("Rolling Mills", "Conveyor Systems", "Instruments", "Foundry", "Coatings", "Bearings", "Optics")
_FORMS = ("Inc.", "LLC", "Corporation", "Ltd.")
_ALIASES = ("Customer", "Supplier", "Company", "Licensor", "Distributor", "Agent", "Buyer", "Seller")
_TITLES = ("SUPPLY AGREEMENT", "LICENSE AGREEMENT", "AGENCY AGREEMENT", "SERVICES AGREEMENT")
_LAWS = ("New York", "Delaware", "California", "Texas", "Ontario", "England")
_MONTHS = ("January", "March", "May", "July", "October", "December")


def contract(number: int) -> tuple[str, list[dict[str, object]], list[dict[str, object]]]:
    """Returns text, entities and relations of the contract of a number."""
    rng = random.Random(number)
    names = [f"{rng.choice(_NAMES)} {rng.choice(_TRADES)} {rng.choice(_FORMS)}" for _ in range(2)]
    aliases, title, law = rng.sample(_ALIASES, 2), rng.choice(_TITLES), rng.choice(_LAWS)
    date = f"{rng.choice(_MONTHS)} {rng.randint(1, 28)}, {rng.randint(1998, 2024)}"
    pieces = [
        (title, "title"), ("\n\nThis agreement is made as of ", ""), (date, "agreement_date"), (" by and between ", ""),
        (names[0], "party"), (' ("', ""), (aliases[0], "alias"), ('") and ', ""),
        (names[1], "party"), (' ("', ""), (aliases[1], "alias"), ('").\n', ""),
        ("The parties deliver goods in good order and pay within the month. " * rng.randint(1, 4), ""),
        ("\nThis agreement shall be governed by the laws of the State of ", ""), (law, "governing_law"), (".\n", ""),
    ]  # fmt: skip
    text, entities = "", []
    for words, kind in pieces:
        if kind:
            entities.append({"type": kind, "start": len(text), "end": len(text) + len(words)})
        text += words
    return text, entities, [{"type": "alias_of", "head": 2, "tail": 3}, {"type": "alias_of", "head": 4, "tail": 5}]


def write_contracts(folder: Path, *, train: int, val: int) -> Path:
    """Writes a data set of contracts and returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(train + val):
        text, entities, relations = contract(number)
        (folder / f"{number}.txt").write_text(text)
        fold = "train" if number < train else "val"
        row = {"file": f"{number}.txt", "fold": fold, "group": str(number), "entities": entities}
        lines.append(json.dumps(row | {"relations": relations}))
    (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_encoder(folder: Path) -> Path:
    """Writes an encoder with random weights and a tokenizer of the contracts' words, and returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[unused0]", "[unused1]"]
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([contract(number)[0] for number in range(60)], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    shape = EncoderShape(
        **{name: getattr(SHAPE, name) for name in SHAPE.__struct_fields__ if name != "vocab_size"}
        | {"vocab_size": tokenizer.get_vocab_size()}
    )
    (folder / "config.json").write_text(json.dumps({name: getattr(shape, name) for name in shape.__struct_fields__}))
    torch.manual_seed(0)
    save_file(_bert_names(TextTrunk(shape, 0.0), shape), str(folder / "model.safetensors"))
    return folder


def _bert_names(trunk: TextTrunk, shape: EncoderShape) -> dict[str, torch.Tensor]:
    from lineside_models.networks.token_classifier import _PARTS

    state = {key: value.detach().contiguous() for key, value in trunk.state_dict().items()}
    named = {
        "embeddings.word_embeddings.weight": state["words.weight"] * 0.1,
        "embeddings.position_embeddings.weight": state["places.weight"] * 0.1,
        "embeddings.token_type_embeddings.weight": torch.zeros(2, shape.hidden_size),
        "embeddings.LayerNorm.weight": state["norm.weight"],
        "embeddings.LayerNorm.bias": state["norm.bias"],
    }
    for number in range(shape.num_hidden_layers):
        for ours, theirs in _PARTS.items():
            for part in ("weight", "bias"):
                named[f"encoder.layer.{number}.{theirs}.{part}"] = state[f"layers.{number}.{ours}.{part}"]
    return named
