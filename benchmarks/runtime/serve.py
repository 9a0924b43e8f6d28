"""What ``lineside serve`` adds over calling the session, and how much of that is not ours.

Two baselines, each in turn with what is measured: `Session.predict` on the same bundle in the caller's process, and a
bare uvicorn + starlette and a bare grpcio server that read the same bytes and answer as many without looking at them.
The requests are made beforehand, so that the client's own encoding isn't measured; `tritonclient` is timed beside them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from benchmarks.inputs import networks
from benchmarks.runtime.bare_server import METHOD
from benchmarks.smoke import scaled
from benchmarks.timing import interleaved, spread
from lineside_hub.simulate.processes import listening
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.server.proto import message
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

CLIENTS = scaled((1, 4), smoke=(1,))
SECONDS = scaled(2.0, smoke=0.1)
ROUNDS = scaled({"tiny": 600, "lite0": 150}, smoke={"tiny": 2, "lite0": 2})
CONFIG = Config(engines=("ort",), threads=1)
LENGTH = "Inference-Header-Content-Length"
INFER = "/inference.GRPCInferenceService/ModelInfer"


def run() -> dict[str, Any]:
    """Measures latency and throughput on the tiny network and on EfficientNet-Lite0 INT8."""
    found: dict[str, Any] = {
        "baseline": "Session.predict on the same bundle in the caller's process; and bare uvicorn + starlette and bare "
        "grpcio servers that read and answer as many bytes without looking at them"
    }
    tiny, lite0 = networks.bundle(networks.tiny()), networks.bundle(networks.lite0_int8())
    found["tiny"] = _measure(tiny, np.ones((1, 4), np.float32), ROUNDS["tiny"])
    found["lite0"] = _measure(lite0, networks.frame(), ROUNDS["lite0"])
    return found


def _measure(bundle: Bundle, array: Array, rounds: int) -> dict[str, Any]:
    name = bundle.manifest.inputs[0].name
    with Session(bundle, CONFIG) as session:
        answer_bytes = sum(output.nbytes for output in session.predict({name: array}).values())
        with _serving(bundle) as (web, remote), _bare(answer_bytes) as (bare_web, bare_remote):
            body, headers, call = _requests(bundle.manifest.name, name, array)
            path = f"/v2/models/{bundle.manifest.name}/infer"
            calls: dict[str, Callable[[], object]] = {
                "predict": lambda: session.predict({name: array}),
                "rest": _poster(web, path, body, headers),
                "rest_bare": _poster(bare_web, "/", body, headers),
                "grpc": _caller(remote, INFER, call),
                "grpc_bare": _caller(bare_remote, METHOD, call),
                "tritonclient_http": _triton(triton_http, web, bundle.manifest.name, name, array),
                "tritonclient_grpc": _triton(triton_grpc, remote, bundle.manifest.name, name, array),
            }
            times = interleaved(calls, rounds=rounds)
            throughput = {
                "predict": {n: _threads(calls["predict"], n) for n in CLIENTS},
                "rest": {n: _processes(n, _poster, web, path, body, headers) for n in CLIENTS},
                "grpc": {n: _processes(n, _caller, remote, INFER, call) for n in CLIENTS},
            }
    p50 = {key: spread(values)["p50"] for key, values in times.items()}
    return {
        "macs": networks.macs(bundle.file(bundle.manifest.variants[0].file)),
        "request_bytes": len(body),
        "answer_bytes": answer_bytes,
        "latency_ms": {key: spread(values) for key, values in times.items()},
        "rest_over_predict_us": round((p50["rest"] - p50["predict"]) * 1e3, 1),
        "grpc_over_predict_us": round((p50["grpc"] - p50["predict"]) * 1e3, 1),
        "rest_over_predict_and_bare_us": round((p50["rest"] - p50["predict"] - p50["rest_bare"]) * 1e3, 1),
        "grpc_over_predict_and_bare_us": round((p50["grpc"] - p50["predict"] - p50["grpc_bare"]) * 1e3, 1),
        "calls_per_second_by_clients": throughput,
    }


def _requests(model: str, name: str, array: Array) -> tuple[bytes, dict[str, str], bytes]:
    """Returns the REST body with its headers, and the gRPC message."""
    raw = array.tobytes()
    tensor = {"name": name, "shape": array.shape, "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    call = message("ModelInferRequest")(model_name=model, raw_input_contents=[raw])
    call.inputs.add(name=name, datatype="FP32", shape=array.shape)
    return head + raw, {LENGTH: str(len(head))}, call.SerializeToString()


def _poster(address: str, path: str, body: bytes, headers: dict[str, str]) -> Callable[[], object]:
    connection = http.client.HTTPConnection(address)

    def post() -> object:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(answer[:500])
        return answer

    return post


def _caller(address: str, method: str, call: bytes) -> Callable[[], object]:
    function = grpc.insecure_channel(address).unary_unary(method)
    return lambda: function(call)


def _triton(module: Any, address: str, model: str, name: str, array: Array) -> Callable[[], object]:
    client = module.InferenceServerClient(address)
    given = module.InferInput(name, list(array.shape), "FP32")
    given.set_data_from_numpy(array)
    return lambda: client.infer(model, [given])


def _threads(call: Callable[[], object], clients: int) -> float:
    """Returns the calls a second of some threads together."""
    with ThreadPoolExecutor(clients) as pool:
        counts = list(pool.map(lambda _: _count(call), range(clients)))
    return round(sum(counts) / SECONDS, 1)


def _processes(clients: int, make: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """Returns the calls a second of some client processes together."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(clients), context.Queue()
    workers = [context.Process(target=_client, args=(ready, results, make, arguments)) for _ in range(clients)]
    for worker in workers:
        worker.start()
    total: int = sum(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    return round(total / SECONDS, 1)


def _client(ready: Any, results: Any, make: Callable[..., Callable[[], object]], arguments: Sequence[Any]) -> None:
    call = make(*arguments)
    for _ in range(5):
        call()
    ready.wait()
    results.put(_count(call))


def _count(call: Callable[[], object]) -> int:
    end, count = time.perf_counter() + SECONDS, 0
    while time.perf_counter() < end:
        call()
        count += 1
    return count


@contextlib.contextmanager
def _started(*arguments: str) -> Iterator[dict[str, Any]]:
    with subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise RuntimeError("no pipe")
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def _serving(bundle: Bundle) -> Iterator[tuple[str, str]]:
    options = ("--engine", "ort", "--threads", "1", "--http-port", "0", "--grpc-port", "0", "--json")
    with _started("lineside", "serve", str(bundle.path), *options) as urls:
        yield urls["http"].removeprefix("http://"), urls["grpc"]


@contextlib.contextmanager
def _bare(answer_bytes: int) -> Iterator[tuple[str, str]]:
    with _started("benchmarks.runtime.bare_server", str(answer_bytes)) as urls:
        while not listening(urls["http"]):  # uvicorn says nothing when it listens
            time.sleep(0.02)
        yield f"127.0.0.1:{urls['http']}", f"127.0.0.1:{urls['grpc']}"
