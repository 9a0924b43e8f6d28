"""A small recommender's bundle without training: an item scores by its likeness to the mean of the history."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper

from lineside_models.golden import RankingRequest, record_ranking
from lineside_models.recommendation.recommender import BIAS, CANDIDATES, HISTORY, SCORES
from lineside_models.recommendation.tables import encode_ids, write_tables
from lineside_runtime.bundle import (
    Bundle,
    Manifest,
    Postprocess,
    Preprocess,
    Rows,
    Variant,
    open_bundle,
    write_manifest,
)
from lineside_runtime.config import Config
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec

GROUPS = ("bearing", "seal", "valve")
ITEMS = tuple(sorted(f"{group}-{number}" for group in GROUPS for number in range(4)))


def make_recommender(folder: Path, *, version: str = "1.0.0") -> Bundle:
    """Writes the bundle: items of a group are alike."""
    (folder / "onnx-fp32").mkdir(parents=True)
    onnx.save(_graph(), folder / "onnx-fp32" / "model.onnx")
    place = {group: number for number, group in enumerate(GROUPS)}
    vectors = np.zeros((len(ITEMS) + 2, len(GROUPS)), np.float32)
    for row, item in enumerate(ITEMS):
        vectors[row, place[item.split("-")[0]]] = 1 + 0.01 * int(item[-1])
    tables = write_tables(
        folder,
        {
            "items": encode_ids(ITEMS),
            "item_vectors": vectors,
            "item_bias": np.zeros(len(ITEMS) + 2, np.float32),
            "item_attributes": np.zeros((len(ITEMS) + 2, 1), np.int64),
            "attributes": encode_ids(("spare",)),
            "attribute_vectors": np.zeros((2, 1), np.float32),
        },
    )
    size = len(GROUPS) + 1
    manifest = Manifest(
        name="parts",
        version=version,
        created_at="2026-01-01T00:00:00Z",
        task="generic",
        labels=(),
        inputs=(
            TensorSpec(name=HISTORY, shape=(1, -1, size)),
            TensorSpec(name=CANDIDATES, shape=(1, -1, size)),
            TensorSpec(name=BIAS, shape=(1, -1)),
        ),
        outputs=(TensorSpec(name=SCORES, shape=(1, -1)),),
        preprocess=Preprocess(input=HISTORY, colour="none", rows=Rows(tables=tables, history_max=5)),
        postprocess=Postprocess(name="none"),
        variants=(Variant(name="onnx-fp32", format="onnx", file="onnx-fp32/model.onnx", level=0, precision="fp32"),),
    )
    with Session(write_manifest(folder, manifest), Config(engines=("ort",), threads=1)) as session:
        golden = record_ranking(session, folder, RankingRequest(history=ITEMS[:2], candidates=ITEMS))
    write_manifest(folder, msgspec.structs.replace(manifest, golden=golden))
    return open_bundle(folder)


def _graph() -> onnx.ModelProto:
    size = len(GROUPS) + 1
    nodes = [
        helper.make_node("ReduceMean", [HISTORY], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", [CANDIDATES, "mean"], ["product"]),
        helper.make_node("ReduceSum", ["product", "axis"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", BIAS], [SCORES]),
    ]
    shapes = {HISTORY: (1, "H", size), CANDIDATES: (1, "C", size), BIAS: (1, "C")}
    graph = helper.make_graph(
        nodes,
        "likeness",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, (1, "C"))],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
