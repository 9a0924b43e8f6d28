"""A recommender behind `lineside serve`, called by somebody else's client."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from lineside_models.recommendation.inference_interface import interface_of
from lineside_runtime.config import Config
from lineside_runtime.errors import BadInputFormatError, RequestError
from lineside_runtime.server.calls import InferRequest
from lineside_runtime.server.limits import ServerLimits
from lineside_runtime.server.repository import ModelRepository
from lineside_runtime.server.service import Service
from lineside_runtime.server.wire import GivenTensor, datatype_of, to_array, to_bytes
from lineside_runtime.tensors import TensorSpec
from tests.runtime.server.serving import Serving
from tests.worlds.recommenders import ITEMS, make_recommender

SPEC = TensorSpec(name="history", shape=(-1,), dtype="string")


def test_items_travel_as_texts_over_both_protocols(tmp_path: Path) -> None:
    bundle = make_recommender(tmp_path / "parts").path
    with Serving(tmp_path, bundle, "--engine", "ort", "--threads", "1", "--model-control") as server:
        for module, address in ((triton_http, server.http), (triton_grpc, server.grpc)):
            client = module.InferenceServerClient(address)
            history = module.InferInput("history", [1], "BYTES")
            history.set_data_from_numpy(np.array([b"seal-1"], np.object_))
            top = module.InferInput("top", [1], "INT64")
            top.set_data_from_numpy(np.array([2], np.int64))
            found = client.infer("parts", [history, top])
            assert found.as_numpy("items").tolist() == [b"seal-3", b"seal-2"]
            assert found.as_numpy("scores").shape == (2,)
            client.close()
        body = {"inputs": [{"name": "candidates", "datatype": "BYTES", "shape": [2], "data": ["valve-1", "new"]}]}
        assert posted(server, "models/parts/infer", body)["outputs"][0]["data"] == ["valve-1", "new"]
        with urllib.request.urlopen(f"http://{server.http}/v2/models/parts") as answer:
            assert [one["datatype"] for one in json.load(answer)["inputs"]] == ["BYTES", "BYTES", "INT64"]
        shutil.rmtree(bundle)
        make_recommender(bundle, version="1.1.0")
        posted(server, "repository/models/parts/load", {})
        assert posted(server, "models/parts/infer", body)["model_version"] == "1.1.0"


def test_what_leaves_no_candidate_is_answered_with_none_and_an_empty_history_is_one(tmp_path: Path) -> None:
    bundle = make_recommender(tmp_path / "parts").path
    with Serving(tmp_path, bundle, "--engine", "ort", "--threads", "1") as server:
        for history, candidates in ((ITEMS, ITEMS), (ITEMS[:1], ITEMS[:1]), ((), ())):
            inputs = [texts("history", history), texts("candidates", candidates)]
            answer = posted(server, "models/parts/infer", {"inputs": inputs})
            assert [(one["datatype"], one["shape"], one["data"]) for one in answer["outputs"]] == [
                ("BYTES", [0], []), ("FP32", [0], [])
            ]  # fmt: skip
            assert answer["parameters"]["used_device"] == ""
        assert server.metric("lineside_session_calls_total") == 0
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            history = triton_grpc.InferInput("history", [len(ITEMS)], "BYTES")
            history.set_data_from_numpy(np.array([item.encode() for item in ITEMS], np.object_))
            assert client.infer("parts", [history]).as_numpy("items").tolist() == []
        for name in ("history", "candidates"):
            many = {"inputs": [texts(name, [str(number) for number in range(20_001)])]}
            status, error = server.json("POST", "/v2/models/parts/infer", many)
            assert (status, error["expected"], error["actual"]) == (400, "at most 20000 items", "20001")
        answer = posted(server, "models/parts/infer", {"inputs": [texts("history", ())]})
        assert answer["outputs"][0]["shape"] == [10]


def test_a_call_that_has_begun_ends_on_the_old_bundle(tmp_path: Path) -> None:
    bundle = make_recommender(tmp_path / "parts").path
    repository = ModelRepository([bundle], Config(engines=("ort",), threads=1), interface_of)
    service = Service(repository, ServerLimits(), version="0")
    request = InferRequest("parts", "", "", (), (), None, "rest")

    def load_another() -> bool:
        shutil.rmtree(bundle)
        make_recommender(bundle, version="1.1.0")
        repository.get("parts").load()
        return True

    def unload() -> bool:
        repository.get("parts").unload()
        return True

    try:
        for change, answered in ((load_another, "1.0.0"), (unload, "1.1.0")):
            answer = service.infer(request, arrived_s=time.perf_counter(), wanted=change)
            assert (answer.version, len(answer.prediction.outputs["items"])) == (answered, 10)
        with pytest.raises(RequestError, match="not loaded"):
            service.infer(request, arrived_s=time.perf_counter())
    finally:
        repository.close()


def texts(name: str, values: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [len(values)], "data": values}


def posted(server: Serving, path: str, body: Any) -> Any:
    request = urllib.request.Request(f"http://{server.http}/v2/{path}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or b"{}")


def test_texts_come_back_as_they_were_sent_and_damaged_ones_are_named() -> None:
    texts = np.array(["a", "", "ö" * 300], object)
    raw = to_bytes(texts)
    assert datatype_of(texts.dtype.name) == "BYTES"
    for data in (memoryview(raw), texts.tolist(), [text.encode() for text in texts]):
        assert to_array(GivenTensor("history", "BYTES", (3,), data), SPEC).tolist() == texts.tolist()
    damaged: tuple[Any, ...] = (
        b"\x01\x00\x00", b"\x05\x00\x00\x00abc", b"\x01\x00\x00\x00\xff", [7], [["a"]], []
    )  # fmt: skip
    for data in damaged:
        with pytest.raises(BadInputFormatError, match="history"):
            to_array(GivenTensor("history", "BYTES", (1,), data), SPEC)
