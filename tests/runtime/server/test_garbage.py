"""What clients send by mistake or on purpose: each gets a 4xx in our JSON, and the server goes on."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.peers import wait_for
from tests.runtime.server.serving import Serving, call

INFER = "/v2/models/test/infer"
LENGTH = "Inference-Header-Content-Length"
ROW = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture(autouse=True)
def still_right(serving: Serving) -> Iterator[None]:
    """After each test the server answers as before, and nothing of it crashed."""
    yield
    status, answer = serving.json("POST", INFER, request())
    assert status == 200
    assert answer["outputs"][0]["data"] == [2.0, 4.0, 6.0, 8.0]
    assert "Traceback" not in serving.log
    assert serving.metric("lineside_requests_total", outcome="crashed") == 0


def request(data: Any = ROW, shape: Any = (1, 4), datatype: Any = "FP32", **extra: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data, **extra}]}


def binary(shape: Any = (1, 4), size: Any = 16, blob: bytes = struct.pack("<4f", *ROW)) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "x", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + blob, {LENGTH: str(len(head))}


def refused(serving: Serving, body: bytes | str, headers: dict[str, str] | None = None, path: str = INFER) -> str:
    status, found, answer = serving.ask("POST", path, body, headers)
    assert 400 <= status < 500, (status, answer)
    assert found["content-type"] == "application/json"
    error = json.loads(answer)
    assert error["code"] in (2003, 2011)
    assert error["error"].startswith(f"[{error['code']}] ")
    return str(error["error"])


def test_curl_speaks_to_it(serving: Serving) -> None:
    command = ["curl", "--silent", "--show-error", "--fail", "--compressed", f"http://{serving.http}{INFER}"]
    done = subprocess.run([*command, "--data", json.dumps(request())], capture_output=True, check=True)
    answer = json.loads(done.stdout)
    assert (answer["model_name"], answer["outputs"][0]["shape"]) == ("test", [1, 4])
    assert answer["parameters"]["used_device"] == "ort/cpu:0"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe\x00",
        b'{"inputs": []}',
        b'{"inputs": {}}',
        b'{"inputs": [1]}',
        b'{"inputs": [{"name": "x"}]}',
        b'{"inputs": [{"name": 1, "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}',
        b"[" * 100_000,
        b'{"inputs":' + b'[{"name":' * 5000,
        b'{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [NaN, 1, 2, 3]}]}',
        b'{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [Infinity, 1, 2, 3]}]}',
        b'{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1e999, 1, 2, 3]}]}',
        b'{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ' + b"[" * 900 + b"]" * 900 + b"}]}",
    ],
    ids=lambda body: body[:40].decode(errors="replace") + f"-{len(body)}",
)
def test_json_that_is_no_request(serving: Serving, body: bytes) -> None:
    refused(serving, body)


@pytest.mark.parametrize(
    "value",
    [
        request(shape=[]),
        request(shape=[2**63, 4]),
        request(shape=[10**40, 4]),
        request(shape=[1.5, 4]),
        request(shape="1,4"),
        request(shape=[2, 4]),
        request(shape=[1] * 1000),
        request(datatype="BF16"),
        request(datatype="COMPLEX"),
        request(datatype="x" * 10_000),
        request(datatype=7),
        request(datatype="BYTES", data=["a", "b", "c", "d"]),
        request(data=[None] * 4),
        request(data=[{"a": 1}] * 4),
        request(data=[10**400, 1, 2, 3]),
        request(data={"0": 1}),
        request(data=3),
        request(data=None),
        request(parameters={"binary_data_size": 16}),
        request(parameters={"shared_memory_region": "frames", "shared_memory_byte_size": 16}, data=None),
        request(parameters=[]),
        {"inputs": [*request()["inputs"], *request()["inputs"]]},
        {**request(), "outputs": [{"name": "y"}, {"name": "y"}]},
        {**request(), "outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]},
        {**request(), "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        {**request(), "outputs": ["y"]},
        {**request(), "parameters": {"timeout": -1}},
        {**request(), "parameters": {"timeout": "soon"}},
        {**request(), "parameters": {"timeout": 10**30}},
        {**request(), "parameters": {"sequence_id": "a"}},
        {**request(), "parameters": {"binary_data_output": 1}},
        {**request(), "id": 7},
    ],
    ids=lambda value: json.dumps(value)[:120],
)
def test_json_that_does_not_fit(serving: Serving, value: Any) -> None:
    refused(serving, json.dumps(value))


@pytest.mark.parametrize(
    "value",
    [5, [], "load", {"parameters": 5}, {"parameters": True}, {"parameters": [1]}, {"parameters": "config"}],
    ids=json.dumps,
)
def test_orders_to_the_repository_that_are_no_orders(serving: Serving, value: Any) -> None:
    for order in ("index", "models/test/load", "models/test/unload"):
        assert "the request is not as the protocol says" in refused(
            serving, json.dumps(value), path=f"/v2/repository/{order}"
        )
    assert "`bool`" in refused(serving, '{"ready": 5}', path="/v2/repository/index")


def test_flat_and_nested_data_are_the_same(serving: Serving) -> None:
    for data in (ROW, [ROW], [1, 2, 3, 4]):
        status, answer = serving.json("POST", INFER, request(data))
        assert (status, answer["outputs"][0]["data"]) == (200, [2.0, 4.0, 6.0, 8.0])


@pytest.mark.parametrize("length", ["0", "-1", "5", "1e3", "99999", "9" * 50, "9" * 5000, "0x10", "abc", "１６", "+80"])
def test_header_lengths_that_are_wrong(serving: Serving, length: str) -> None:
    refused(serving, binary()[0], {LENGTH: length.encode().decode("latin-1")})


@pytest.mark.parametrize(
    ("size", "blob"),
    [
        (16, b""),
        (17, bytes(17)),
        (0, b""),
        (-16, bytes(16)),
        (2**63, bytes(16)),
        (10**30, bytes(16)),
        (True, bytes(16)),
        ("16", bytes(16)),
        (16.0, bytes(16)),
        (None, bytes(16)),
    ],
)
def test_binary_data_of_another_size(serving: Serving, size: Any, blob: bytes) -> None:
    refused(serving, *binary(size=size, blob=blob))


def test_nan_and_infinity_may_travel_as_binary(serving: Serving) -> None:
    body, headers = binary(blob=struct.pack("<4f", float("nan"), float("inf"), -float("inf"), 1))
    status, _, answer = serving.ask("POST", INFER, body, headers)
    assert status == 200
    assert json.loads(answer)["outputs"][0]["data"] == [None, None, None, 2.0]  # JSON has no other word for them


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"not gzip"),
        ("deflate", b"not deflate"),
        ("gzip", zlib.compress(b"{}")),
        ("gzip", b""),
        ("deflate", zlib.compress(b"{}")[:-3]),
        ("deflate", zlib.compress(b"{}") + b"more"),
        ("br", b"{}"),
        ("gzip, gzip", b"{}"),
    ],
)
def test_damaged_or_unknown_encodings(serving: Serving, encoding: str, body: bytes) -> None:
    refused(serving, body, {"Content-Encoding": encoding})


def test_a_small_body_that_swells_is_stopped(serving: Serving) -> None:
    bomb = zlib.compress(b" " * (64 << 20), 9)
    assert len(bomb) < 100_000
    status, _, answer = serving.ask("POST", INFER, bomb, {"Content-Encoding": "deflate"})
    assert (status, json.loads(answer)["code"]) == (413, 2011)


def test_a_body_that_is_too_large_is_not_kept(serving: Serving) -> None:
    size = (8 << 20) + 1
    with serving.socket() as raw:  # announced: refused before it comes
        raw.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
        assert read(raw).startswith(b"HTTP/1.1 413")
    with serving.socket() as raw:  # not announced: refused when it gets there
        raw.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(9):
            raw.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
        assert read(raw).startswith(b"HTTP/1.1 413")


def read(raw: socket.socket) -> bytes:
    """Returns one whole answer, or what came of it."""
    found = b""
    while True:
        head, _, body = found.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length and len(body) >= int(length[1]):
            return found
        part = raw.recv(65536)
        if not part:
            return found
        found += part


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # a TLS greeting
        b"GET\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v2/models/test/infer HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /v2/models/test/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v2/models/test/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:50]),
)
def test_what_is_not_http(serving: Serving, sent: bytes) -> None:
    with serving.socket() as raw:
        raw.sendall(sent)
        answer = read(raw)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 4"), answer
        assert json.loads(body)["code"] == 2011


def test_a_body_that_breaks_off(serving: Serving) -> None:
    before = serving.metric("lineside_requests_total", outcome="cancelled")
    body = json.dumps(request()).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for count in (0, 1, len(body) // 2, len(body) - 1):
        with serving.socket() as raw:
            raw.sendall(head + body[:count])
            raw.shutdown(socket.SHUT_WR)
            read(raw)
    assert serving.metric("lineside_requests_total", outcome="cancelled") >= before


def test_paths_and_methods_that_are_not_there(serving: Serving) -> None:
    for method, path, wanted in (
        ("GET", "/", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/", 404),
        ("POST", f"{INFER}/", 404),
        ("GET", "/v2/models/a%2Fb", 404),
        ("GET", "/v2/models/..%2f..%2fetc", 404),
        ("GET", INFER, 405),
        ("DELETE", "/v2/models/test", 405),
        ("GET", "/v2/models/test/versions/7", 404),
        ("POST", "/v2/systemsharedmemory/region/a/register", 400),
        ("GET", "/v2/cudasharedmemory/status", 400),
    ):
        status, _, body = serving.ask(method, path)
        assert status == wanted, path
        assert json.loads(body)["code"] == 2011


def test_grpc_garbage(serving: Serving) -> None:
    with grpc.insecure_channel(serving.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for message in (b"", b"\xff" * 100, b"\x0a\x04test", bytes(1000)):
            with pytest.raises(grpc.RpcError) as caught:
                infer(message, timeout=60)
            assert caught.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
            assert caught.value.details().startswith("[20")
        with pytest.raises(grpc.RpcError) as caught:
            infer(bytes(9 << 20), timeout=60)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/inference.GRPCInferenceService/Nothing")(b"", timeout=20)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    with socket.create_connection(serving.grpc.rsplit(":", 1), timeout=60) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(1000))
        read(raw)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
_TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "y", ""]) | _VALUES,
        "shape": st.lists(st.integers(-2, 5), max_size=4) | st.just([1, 4]) | _VALUES,
        "datatype": st.sampled_from(["FP32", "UINT8", "BYTES"]) | _VALUES,
    },
    optional={
        "data": st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=8) | _VALUES,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "classification"]), _VALUES) | _VALUES,
    },
)
_REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(_TENSORS, max_size=2) | _VALUES},
    optional={
        "id": st.text(max_size=5) | _VALUES,
        "outputs": st.lists(_TENSORS, max_size=2) | _VALUES,
        "parameters": st.dictionaries(st.sampled_from(["timeout", "binary_data_output"]), _VALUES) | _VALUES,
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=_REQUESTS | _VALUES, blob=st.binary(max_size=40), length=st.none() | st.integers(-5, 200))
def test_whatever_is_sent_is_answered_or_refused(serving: Serving, value: Any, blob: bytes, length: int | None) -> None:
    body = json.dumps(value).encode() + blob
    headers = {} if length is None else {LENGTH: str(length)}
    status, found, answer = serving.ask("POST", INFER, body, headers)
    assert status == 200 or 400 <= status < 500, (status, answer)
    if "inference-header-content-length" not in found:
        json.loads(answer)


def test_clients_that_dawdle_are_cut_off(bundles: Path, tmp_path: Path) -> None:
    options = ("--engine", "ort", "--threads", "1", "--timeout-s", "1", "--header-timeout-s", "0.5")
    with Serving(tmp_path, bundles / "test", bundles / "busy", bundles / "large", *options) as server:
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n".encode()
        with server.socket() as silent, server.socket() as header, server.socket() as body, server.socket() as second:
            header.sendall(b"GET /v2 HTTP/1.1\r\nHost: loc")
            body.sendall(head + b"{")
            second.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read(second).startswith(b"HTTP/1.1 200")
            second.sendall(b"GET /v2 HTTP/1.1\r\nHost: loc")
            for raw in (silent, header, second):
                assert ended(raw)
            assert read(body).startswith(b"HTTP/1.1 408")
            assert ended(body)
        status, error = server.json("POST", "/v2/models/busy/infer", call(0, parameters={"timeout": 1}))
        assert (status, error["code"]) == (504, 1008)

        with server.socket() as deaf:  # asks for 40 MB and reads none of it
            value = {"inputs": [{"name": "count", "shape": [1], "datatype": "INT64", "data": [10_000_000]}]}
            text = json.dumps({**value, "parameters": {"binary_data_output": True}}).encode()
            ask = f"POST /v2/models/large/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n"
            deaf.sendall(ask.encode() + text)
            port = deaf.getsockname()[1]

            def is_connected() -> bool:
                held = psutil.Process(server.process.pid).net_connections("tcp")
                return any(each.raddr and each.raddr.port == port for each in held)

            wait_for(is_connected)
            wait_for(lambda: not is_connected())
            server.ask("GET", "/v2/health/live")


def ended(raw: socket.socket) -> bool:
    try:
        return raw.recv(100) == b""
    except ConnectionResetError:
        return True
