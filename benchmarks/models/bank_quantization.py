"""Product quantization of the bank of `lineside learn-good`: bytes, accuracy by tile, and time of the search.

Magnetic tiles without those of the validation fold, one division: good frames of some tiles are learned, frames of the
others judged. The entries are the same ones in each form: INT8 as shipped, or a byte for so many values, which names
one of 256 centres (k-means of the entries; Jégou et al. 2011). A session turns either into one matrix when it loads, so
the search takes the same time; ``tables`` is the search by tables of distances to the centres, as PatchCore-Lite has
it, in the operators of ONNX.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.inputs.data import shared
from benchmarks.inputs.tiles import Ints, Tile, draw, tiles
from benchmarks.smoke import scaled
from benchmarks.timing import interleaved, spread
from lineside_models.anomaly.bank import ENTRY_EXTRA_BYTES, FeatureBank, learn_bank
from lineside_models.anomaly.features import FrameFeatures, collect_features
from lineside_models.datasets.base import read_folds
from lineside_models.frame import Frame
from lineside_models.metrics import auroc
from lineside_models.postprocess.decoders.anomaly import peak_of

LEARNED = scaled({155: 1240, 300: 4096}, smoke={12: 300})
"""Entries of a scale by frames."""

LEFT_OUT = scaled("val", smoke="")
"""Fold whose tiles are left out; in a smoke run it would have all bad frames."""

JUDGED = scaled(150, smoke=6)
"""Good frames, and as many bad ones."""

VALUES_A_BYTE = (4, 8)
CENTRES, ITERATIONS = 256, 10
PEAK_CELLS = 3
RESAMPLES = scaled(500, smoke=20)
ROUNDS = scaled(9, smoke=2)
Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Data:
    """Frames, and their features.

    Attributes:
        learned: Indices of the good frames to learn from; of ``judged`` those to judge, of other tiles.
        numbers: Tile of each frame.
    """

    features: FrameFeatures
    good: npt.NDArray[np.bool_]
    numbers: Ints
    learned: Ints
    judged: Ints


def run() -> dict[str, Any]:
    """Compares the forms of each bank."""
    data = _data()
    return {
        "baseline": "the bank as it is shipped: INT8, a scale an entry",
        "judged": {"good": int(data.good[data.judged].sum()), "bad": int((~data.good[data.judged]).sum())},
        "banks": {f"{frames}": _bank(data, frames, entries) for frames, entries in LEARNED.items()},
    }


def _say(text: str) -> None:
    print(f"bank_quantization: {text}", file=sys.stderr, flush=True)


def _data() -> Data:
    images = _outside_val(tiles())
    numbers = np.array([each.tile for each in images], np.int64)
    good = np.array([not each.kind for each in images])
    places = np.flatnonzero(good)
    learned = places[draw(numbers[places], max(LEARNED), 0)]
    others = np.random.default_rng(0).permutation(np.flatnonzero(~np.isin(numbers, numbers[learned])))
    judged = np.concatenate([others[good[others]][:JUDGED], others[~good[others]][:JUDGED]])
    used = np.concatenate([learned, judged])
    features = collect_features(
        Frame(image=images[place].image(), source=images[place].path.name, part_id=f"{numbers[place]:06d}")
        for place in used
    )
    _say(f"features of {len(used)} frames")
    first, second = np.arange(len(learned)), len(learned) + np.arange(len(judged))
    return Data(features, good[used], numbers[used], first, second)


def _outside_val(images: Sequence[Tile]) -> list[Tile]:
    """Returns the images of tiles of which none is in the validation fold."""
    table = shared("magnetic-tile") / "folds.csv"
    val = {name.rpartition("/")[2] for name, fold in read_folds(table).items() if fold == LEFT_OUT}
    left_out = {each.tile for each in images if each.path.name in val}
    return [each for each in images if each.tile not in left_out]


def _bank(data: Data, frames: int, entries: int) -> dict[str, Any]:
    """Returns what each form of the banks of so many frames takes and is worth."""
    chosen = data.learned[draw(data.numbers[data.learned], frames, 0)]
    cells = [scale[0] for scale in data.features.scales]
    banks = [
        learn_bank(
            one[chosen].reshape(-1, one.shape[-1]),
            np.repeat(data.numbers[chosen], one.shape[1]),
            entries=entries,
            seed=0,
        )
        for one in cells
    ]
    _say(f"banks of {entries} entries")
    products = {values: [_product(bank, values) for bank in banks] for values in VALUES_A_BYTE}
    forms = {
        "int8": [(bank.vectors, bank.size_bytes) for bank in banks],
        **{f"{values} a byte": [(vectors, size) for vectors, size, _ in each] for values, each in products.items()},
    }
    source = data.features.source
    network = source.file(source.manifest.variants[0].file)
    found: dict[str, Any] = {}
    spreads, baseline = [1.0] * len(banks), np.empty(0, np.float32)
    for name, scales in forms.items():
        peaks = [
            _peaks(bank, vectors, one[data.judged])
            for bank, (vectors, _), one in zip(banks, scales, cells, strict=True)
        ]
        if name == "int8":
            spreads = [float(peak[data.good[data.judged]].std()) for peak in peaks]
        scores = np.sum([peak / unit for peak, unit in zip(peaks, spreads, strict=True)], axis=0)
        baseline = scores if name == "int8" else baseline
        size = sum(bytes_ for _, bytes_ in scales)
        found[name] = {
            "bank_bytes": size,
            "model_bytes": size + network.stat().st_size,
            **_compared(data, scores, baseline),
        }
        _say(f"{name}: {found[name]}")
    sizes = [(one.shape[1], one.shape[2]) for one in cells]
    codes = [each for _, _, each in products[max(VALUES_A_BYTE)]]
    return {
        "frames": len(chosen),
        "tiles": len(set(data.numbers[chosen])),
        "entries": entries,
        "forms": found,
        "search_ms": _times([*zip(sizes, banks, codes, strict=True)]),
    }


def _product(bank: FeatureBank, values: int) -> tuple[Floats, int, Ints]:
    """Returns the entries as product quantization has them, their bytes with those of the centres, and the codes."""
    known = bank.vectors
    decoded, codes = np.empty_like(known), np.empty((len(known), known.shape[1] // values), np.int64)
    stop = (cv2.TERM_CRITERIA_MAX_ITER, ITERATIONS, 0.0)
    cv2.setRNGSeed(0)
    for part in range(codes.shape[1]):
        place = slice(part * values, (part + 1) * values)
        piece = np.ascontiguousarray(known[:, place])
        _, labels, centres = cv2.kmeans(piece, CENTRES, None, stop, 1, cv2.KMEANS_RANDOM_CENTERS)
        codes[:, part] = labels[:, 0]
        decoded[:, place] = centres[labels[:, 0]]
    size = codes.size + CENTRES * known.shape[1] + ENTRY_EXTRA_BYTES * codes.shape[1]  # centres in INT8, a scale a part
    return decoded, size, codes


def _peaks(bank: FeatureBank, vectors: Floats, cells: Floats) -> Floats:
    """Returns each frame's distance to the nearest of the vectors."""
    squares = np.einsum("nc,nc->n", vectors, vectors)
    found = np.empty(len(cells), np.float32)
    for number, one in enumerate(cells):
        turned = bank.turned(one)
        nearest = np.einsum("mc,mc->m", turned, turned) - (2 * (turned @ vectors.T) - squares).max(axis=1)
        found[number] = peak_of(np.sqrt(np.maximum(nearest, 0)), PEAK_CELLS)
    return found


def _compared(data: Data, scores: Floats, baseline: Floats) -> dict[str, Any]:
    """Returns the AUROC of frames, and how much it differs from the baseline's, by bootstrap over tiles."""
    good, numbers = data.good[data.judged], data.numbers[data.judged]
    known = np.unique(numbers)
    lost = []
    for seed in range(RESAMPLES):
        times = np.random.default_rng(seed).multinomial(len(known), np.full(len(known), 1 / len(known)))
        places = np.repeat(np.arange(len(good)), times[np.searchsorted(known, numbers)])
        some = good[places]
        if some.any() and not some.all():
            before, after = (auroc(each[places][some], each[places][~some]) for each in (baseline, scores))
            lost.append(after - before)
    low, high = np.percentile(lost, (2.5, 97.5))
    mine = auroc(scores[good], scores[~good])
    return {
        "auroc": round(mine, 4),
        "gain": round(mine - auroc(baseline[good], baseline[~good]), 4),
        "gain_interval": [round(float(low), 4), round(float(high), 4)],
    }


def _times(scales: Sequence[tuple[tuple[int, int], FeatureBank, Ints]]) -> dict[str, Any]:
    """Times the search of one frame in all scales by ONNX Runtime, one thread: one matrix, or tables of distances."""
    random = np.random.default_rng(0)
    calls: dict[str, list[tuple[onnxruntime.InferenceSession, Floats]]] = {"matrix": [], "tables": []}
    for (cells, channels), bank, codes in scales:
        turned = np.asarray(random.standard_normal((cells, channels)), np.float32)
        calls["matrix"].append((_session(_matrix(bank.vectors)), turned))
        calls["tables"].append((_session(_tables(codes, channels)), turned))

    def search(name: str) -> None:
        for session, turned in calls[name]:
            session.run(None, {"y": turned})

    searches = {name: functools.partial(search, name) for name in calls}
    times = interleaved(searches, rounds=ROUNDS, warm_up=1, clock=time.thread_time_ns)
    return {name: spread(each) for name, each in times.items()}


def _session(graph: onnx.GraphProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _graph(nodes: list[onnx.NodeProto], weights: dict[str, npt.NDArray[Any]]) -> onnx.GraphProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "nearest")]
    kept = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    return helper.make_graph(nodes, "search", ends[:1], ends[1:], kept)


def _matrix(vectors: Floats) -> onnx.GraphProto:
    squares = np.einsum("nc,nc->n", vectors, vectors)
    nodes = [
        helper.make_node("MatMul", ["y", "bank"], ["products"]),
        helper.make_node("Add", ["products", "squares"], ["partial"]),
        helper.make_node("ReduceMin", ["partial"], ["nearest"], axes=[1], keepdims=0),
    ]
    return _graph(nodes, {"bank": np.ascontiguousarray(-2 * vectors.T), "squares": squares})


def _tables(codes: Ints, channels: int) -> onnx.GraphProto:
    """Returns the search by tables: a cell's distances to all centres of each part, of which each entry takes one."""
    parts = codes.shape[1]
    values = channels // parts
    random = np.random.default_rng(0)
    nodes = [helper.make_node("Split", ["y"], [f"y{part}" for part in range(parts)], axis=1)]
    weights: dict[str, npt.NDArray[Any]] = {}
    total = ""
    for part in range(parts):
        weights[f"centres{part}"] = np.asarray(random.standard_normal((values, CENTRES)), np.float32)
        weights[f"codes{part}"] = codes[:, part]
        nodes.append(helper.make_node("MatMul", [f"y{part}", f"centres{part}"], [f"table{part}"]))
        nodes.append(helper.make_node("Gather", [f"table{part}", f"codes{part}"], [f"taken{part}"], axis=1))
        if total:
            nodes.append(helper.make_node("Add", [total, f"taken{part}"], [f"total{part}"]))
        total = f"total{part}" if total else f"taken{part}"
    nodes.append(helper.make_node("ReduceMin", [total], ["nearest"], axes=[1], keepdims=0))
    return _graph(nodes, weights)
