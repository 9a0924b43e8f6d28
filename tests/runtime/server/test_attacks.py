"""What a stranger tries on a server: guessed tokens, web pages, and the control of models."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lineside_models.vision.onnx_bundle import wrap_generic
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, EngineCrashedError, EngineError, OutOfDeviceMemoryError
from lineside_runtime.server.access import read_token
from lineside_runtime.session import Session
from tests.runtime.server.serving import Serving


@pytest.mark.parametrize("token", ["a" * 32, "abcabcabcabcabcabc"])
def test_a_token_that_can_be_guessed_is_refused(token: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token)
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(ConfigError, match="different"):
        read_token(tmp_path / "token")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "file://"])
def test_a_page_of_another_site_can_unload_nothing(serving: Serving, origin: str) -> None:
    """A browser sends such a request to this machine without asking, with a Host header that names it."""
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    status, said = serving.json("POST", "/v2/repository/models/test/unload", headers=headers)
    assert (status, said["code"]) == (403, 2011)
    assert serving.ask("GET", "/v2/models/test/ready")[0] == 200
    assert serving.ask("GET", "/v2", headers={"Origin": "http://localhost:3000"})[0] == 200


@pytest.mark.parametrize(
    "name",
    ["..", "../test", "..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "test%00", "test/../../large", "file:test", "%"],
)
@pytest.mark.parametrize("order", ["load", "unload"])
def test_model_control_reaches_only_what_was_given_at_the_start(serving: Serving, name: str, order: str) -> None:
    before = serving.json("POST", "/v2/repository/index")[1]
    connection = http.client.HTTPConnection(serving.http, timeout=60)
    connection.putrequest("POST", f"/v2/repository/models/{name}/{order}", skip_host=False)
    connection.putheader("Content-Length", "0")
    connection.endheaders()
    assert connection.getresponse().status in (400, 404)
    connection.close()
    assert serving.json("POST", "/v2/repository/index")[1] == before


@pytest.mark.parametrize(
    "parameters",
    [
        {"config": json.dumps({"backend": "python", "parameters": {"EXECUTION_ENV_PATH": "/tmp/evil"}})},
        {"file:1/model.onnx": "AAAA"},
        {"file:../../../../tmp/evil.so": "AAAA"},
    ],
)
def test_a_load_brings_no_file_and_no_configuration_along(serving: Serving, parameters: dict[str, object]) -> None:
    """Triton takes a model's content and its engine with the request; here neither may come from a client."""
    status, said = serving.json("POST", "/v2/repository/models/test/load", {"parameters": parameters})
    assert status == 400, said
    assert serving.ask("GET", "/v2/models/test/ready")[0] == 200


def model(folder: Path, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1, 4])], [value("y", TensorProto.FLOAT, [1, 4])], constants
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return wrap_generic(path, folder / "bundle").path


def test_a_constant_of_four_terabytes_is_one_error(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["c"]),
        helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    bundle = model(tmp_path, nodes, [numpy_helper.from_array(np.array([1 << 40], np.int64), "s")])
    with pytest.raises(OutOfDeviceMemoryError) as caught, Session(bundle, Config(engines=("ort",))) as session:
        session.predict({"x": np.zeros((1, 4), np.float32)})
    assert caught.value.code == 1001


def test_weights_outside_the_bundle_are_not_read(tmp_path: Path) -> None:
    outside = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 4])
    outside.data_location = TensorProto.EXTERNAL
    for key, text in (("location", "../../../../etc/passwd"), ("offset", "0"), ("length", "16")):
        entry = outside.external_data.add()
        entry.key, entry.value = key, text
    with pytest.raises(EngineError) as caught:
        model(tmp_path, [helper.make_node("Add", ["x", "w"], ["y"])], [outside])
    assert caught.value.code == 1007


def endless(folder: Path) -> Path:
    """A model whose loop runs for 2^62 steps."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["go_on"]), helper.make_node("Add", ["a", "one"], ["b"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("a", TensorProto.FLOAT, [1, 4])],
        [value("go_on", TensorProto.BOOL, []), value("b", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.ones((1, 4), np.float32), "one")],
    )
    constants = [
        numpy_helper.from_array(np.array(1 << 62, np.int64), "n"),
        numpy_helper.from_array(np.array(True), "t"),
    ]
    return model(folder, [helper.make_node("Loop", ["n", "t", "x"], ["y"], body=body)], constants)


def test_an_endless_loop_ends_with_its_process(tmp_path: Path) -> None:
    """A call in the caller's thread has no deadline; `isolate` gives it one, and the process is killed."""
    config = Config(engines=("ort",), isolate=("ort",), isolated_timeout_s=2.0, fallback_strategy="error")
    with (
        pytest.raises(EngineCrashedError, match="did not answer within 2 s"),
        Session(endless(tmp_path), config) as one,
    ):
        one.predict({"x": np.zeros((1, 4), np.float32)})
