"""Start, ready, busy, stop, die: seen from outside."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from lineside_runtime.server.grpc_ import STREAMS_MAX
from tests.peers import free_port, wait_for
from tests.runtime.onnx_models import SWISH_SPECS, make_bundle, openvino_only, scaler
from tests.runtime.server.serving import Serving, call

ONE_THREAD = ("--engine", "ort", "--threads", "1")
TOKEN = "0123456789abcdef-token"


def numbers(*values: float) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, len(values)], "datatype": "FP32", "data": values}]}


def test_it_says_where_it_is_and_what_it_serves(serving: Serving) -> None:
    assert serving.said["models"] == ["busy@1", "echo@3", "large@1", "test@1"]
    assert serving.said["http"].startswith("http://127.0.0.1:")


def test_the_metrics_are_what_the_client_sent(bundles: Path, tmp_path: Path) -> None:
    with Serving(tmp_path, bundles / "test", bundles / "busy", *ONE_THREAD) as server:
        for _ in range(5):
            assert server.json("POST", "/v2/models/test/infer", numbers(1, 2, 3, 4))[0] == 200
        for _ in range(3):
            assert server.json("POST", "/v2/models/test/infer", numbers(1, 2))[0] == 400
        for name in ("a", "b"):
            assert server.json("POST", f"/v2/models/{name}/infer", numbers(1))[0] == 404
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            given = triton_grpc.InferInput("x", [1, 4], "FP32")
            given.set_data_from_numpy(np.ones((1, 4), np.float32))
            for _ in range(7):
                client.infer("test", [given])

        requests = "lineside_requests_total"
        assert server.metric(requests, model="test", protocol="rest", outcome="ok") == 5
        assert server.metric(requests, model="test", protocol="rest", outcome="bad_request") == 3
        assert server.metric(requests, model="test", protocol="grpc", outcome="ok") == 7
        assert server.metric(requests, model="(unknown)", outcome="not_found") == 2
        assert server.metric(requests) == 17
        devices = {"requested_device": "cpu:0", "used_device": "ort/cpu:0", "fell_back": "false"}
        assert server.metric("lineside_answers_total", model="test", **devices) == 12
        for histogram in ("lineside_queue_seconds", "lineside_inference_seconds", "lineside_request_seconds"):
            assert server.metric(f"{histogram}_count", model="test") == 12
            assert server.metric(f"{histogram}_bucket", model="test", le="+Inf") == 12
        took_s = server.metric("lineside_request_seconds_sum", model="test")
        assert took_s > server.metric("lineside_inference_seconds_sum", model="test") > 0
        assert server.metric("lineside_session_calls_total", model="test") == 12
        assert server.metric("lineside_session_calls_total", model="busy") == 0
        assert server.metric("lineside_device_failures_total", model="test") == 0
        assert server.metric("lineside_model_ready", model="test") == 1
        resident = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096
        assert server.metric("process_resident_memory_bytes") == pytest.approx(resident, rel=0.2)


def test_a_fallback_is_never_silent(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    make_bundle(folder, openvino_only(), SWISH_SPECS)
    with Serving(tmp_path, folder, "--engine", "ort", "--engine", "openvino", "--threads", "1") as server:
        status, answer = server.json("POST", "/v2/models/test/infer", numbers(0, 0, 0, 0))
        assert status == 200
        assert (answer["parameters"]["used_device"], answer["parameters"]["fell_back"]) == ("openvino/cpu:0", True)
        assert server.metric("lineside_device_failures_total", model="test") >= 1  # it is tried again after a pause
        assert server.metric("lineside_rerouted_total", model="test") == 1
        assert server.metric("lineside_answers_total", used_device="openvino/cpu:0", fell_back="true") == 1
        assert server.metric("lineside_model_info", used_device="openvino/cpu:0") == 1
        assert "ort/cpu:0 failed during load" in server.log


def test_the_cache_answers_what_comes_again_and_says_so(bundles: Path, tmp_path: Path) -> None:
    options = ("--cache-mb", "8", "--cache-sqlite", tmp_path / "cache" / "results.sqlite")
    with Serving(tmp_path, bundles / "test", *ONE_THREAD, *options) as server:
        found = [server.json("POST", "/v2/models/test/infer", numbers(1, 2, 3, 4))[1] for _ in range(3)]
        assert [answer["parameters"]["cached"] for answer in found] == ["", "memory", "memory"]
        assert all(answer["outputs"][0]["data"] == [2.0, 4.0, 6.0, 8.0] for answer in found)
        assert server.json("POST", "/v2/models/test/infer", numbers(9, 9, 9, 9))[1]["parameters"]["cached"] == ""
        assert server.metric("lineside_cache_hits_total", model="test", level="all") == 2
        assert server.metric("lineside_cache_misses_total", model="test", level="all") == 2
        assert server.metric("lineside_cache_hits_total", model="test", level="memory") == 2
        assert server.metric("lineside_cache_misses_total", model="test", level="sqlite") == 2
        assert server.metric("lineside_cache_up", model="test") == 2
        assert server.metric("lineside_answers_total", cached="memory") == 2
        assert server.metric("lineside_inference_seconds_count", model="test") == 2
        assert server.metric("lineside_requests_total", outcome="ok") == 4


def test_more_calls_than_may_wait_are_refused_at_once_and_one_that_runs_too_long_ends_at_its_deadline(
    bundles: Path, tmp_path: Path
) -> None:
    limits = ("--workers", "1", "--max-in-flight", "2")
    with Serving(tmp_path, bundles / "busy", *ONE_THREAD, *limits) as server, ThreadPoolExecutor(2) as others:
        body = json.dumps(call(1500))
        running = [others.submit(server.ask, "POST", "/v2/models/busy/infer", body) for _ in range(2)]
        wait_for(lambda: server.metric("lineside_in_flight") == 2)
        status, headers, answer = server.ask("POST", "/v2/models/busy/infer", json.dumps(call(0)))
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(answer)["code"] == 1010
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            given = triton_grpc.InferInput("n", [1], "INT64")
            given.set_data_from_numpy(np.zeros(1, np.int64))
            with pytest.raises(InferenceServerException, match="1010") as caught:
                client.infer("busy", [given])
            assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
            assert client.is_server_live()  # which busy models don't keep from answering
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        assert [one.result()[0] for one in running] == [200, 200]
        assert server.metric("lineside_requests_total", outcome="overloaded") == 2
        assert server.metric("lineside_in_flight") == 0

        status, error = server.json("POST", "/v2/models/busy/infer", call(1500, parameters={"timeout": 20_000}))
        assert (status, error["code"]) == (504, 1008)
        assert server.metric("lineside_requests_total", outcome="deadline") == 1
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            given.set_data_from_numpy(np.array([1500]))
            with pytest.raises(InferenceServerException, match=r"(?i)deadline") as caught:
                client.infer("busy", [given], client_timeout=0.05)
            assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        # what still runs of them is not answered twice, and the next call is
        wait_for(lambda: server.json("POST", "/v2/models/busy/infer", call(1))[0] == 200)
        assert server.metric("lineside_requests_total", outcome="ok") >= 3


def test_on_sigterm_ready_turns_false_and_running_calls_are_answered(bundles: Path, tmp_path: Path) -> None:
    with Serving(tmp_path, bundles / "busy", *ONE_THREAD, "--drain-s", "5") as server, ThreadPoolExecutor(2) as others:
        body = json.dumps(call(1500))
        given = triton_grpc.InferInput("n", [1], "INT64")
        given.set_data_from_numpy(np.array([1500]))
        client = triton_grpc.InferenceServerClient(server.grpc)
        running = others.submit(server.ask, "POST", "/v2/models/busy/infer", body)
        streaming = others.submit(client.infer, "busy", [given])
        wait_for(lambda: server.metric("lineside_in_flight") == 2)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.ask("GET", "/v2/health/ready")[0] == 503)
        assert server.ask("GET", "/v2/health/live")[0] == 200
        assert server.json("POST", "/v2/models/busy/infer", call(0))[0] == 200  # a balancer needs a moment to see it
        status, _, answer = running.result()
        assert (status, json.loads(answer)["outputs"][0]["data"]) == (200, [1500.0])
        assert streaming.result().as_numpy("y").tolist() == [1500.0]
        client.close()
        assert server.wait() == 0
        assert "Traceback" not in server.log


def test_clients_may_not_unload_unless_they_are_let_and_after_a_kill_it_starts_clean_on_the_same_ports(
    bundles: Path, tmp_path: Path
) -> None:
    """The second one has open streams, which do not keep it; too many are refused."""
    ports = free_port(), free_port()
    with Serving(tmp_path, bundles / "test", *ONE_THREAD, ports=ports) as first:
        assert first.json("POST", "/v2/models/test/infer", numbers(1, 2, 3, 4))[0] == 200
        assert first.json("POST", "/v2/repository/models/test/unload")[0] == 403
        with triton_grpc.InferenceServerClient(first.grpc) as client:
            with pytest.raises(InferenceServerException, match="--model-control") as caught:
                client.load_model("test")
            assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
        assert first.ask("GET", "/v2/models/test/ready")[0] == 200
        waiting = first.socket()
        first.process.kill()
        first.wait()
        waiting.close()
    with Serving(tmp_path, bundles / "test", *ONE_THREAD, "--drain-s", "0.1", ports=ports) as second:
        assert second.metric("lineside_requests_total") == 0
        assert second.json("POST", "/v2/models/test/infer", numbers(1, 2, 3, 4))[0] == 200
        check_streams(second)


def check_streams(server: Serving) -> None:
    """Opens one stream more than is allowed, and ends the server with all of them open."""
    given = triton_grpc.InferInput("x", [1, 4], "FP32")
    given.set_data_from_numpy(np.ones((1, 4), np.float32))
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    clients = [triton_grpc.InferenceServerClient(server.grpc) for _ in range(STREAMS_MAX + 1)]
    for client in clients:
        client.start_stream(lambda result, error: answers.put((result, error)))
        with contextlib.suppress(InferenceServerException):  # refused before it asked: the answer is told all the same
            client.async_stream_infer("test", [given])
    errors = [error for _, error in (answers.get(timeout=60) for _ in clients) if error is not None]
    assert len(errors) == 1
    assert "[1010] too many streams" in str(errors[0])
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "Traceback" not in server.log
    for client in clients:
        client.stop_stream(cancel_requests=True)
        client.close()


def test_a_reload_changes_the_answers_and_loses_no_call(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    make_bundle(folder, scaler(2.0), version="1")
    with Serving(tmp_path, folder, *ONE_THREAD, "--model-control") as server:
        over, found = threading.Event(), []

        def keep_asking() -> None:
            while not over.is_set():
                found.append(server.json("POST", "/v2/models/test/infer", numbers(1, 1, 1, 1)))

        asking = threading.Thread(target=keep_asking)
        asking.start()
        wait_for(lambda: len(found) > 5)
        folder.rename(tmp_path / "old")
        make_bundle(folder, scaler(3.0), version="2")
        assert server.json("POST", "/v2/repository/models/test/load")[0] == 200
        before = len(found)
        wait_for(lambda: len(found) > before + 5)
        over.set()
        asking.join()
        answers = [(answer["model_version"], answer["outputs"][0]["data"][0]) for _, answer in found]
        assert {status for status, _ in found} == {200}
        assert set(answers) == {("1", 2.0), ("2", 3.0)}
        assert sorted(answers) == answers
        assert server.json("GET", "/v2/models/test")[1]["versions"] == ["2"]
        assert server.json("POST", "/v2/models/test/versions/1/infer", numbers(1, 1, 1, 1))[0] == 404
        folder.rename(tmp_path / "second")
        make_bundle(folder, scaler(4.0), name="other", version="3")
        status, error = server.json("POST", "/v2/repository/models/test/load")
        assert (status, error["code"], error["expected"], error["actual"]) == (409, 2011, "test", "other")
        assert server.json("GET", "/v2/models/test")[1]["versions"] == ["2"]
        (folder / "manifest.json").write_text("{}")
        status, error = server.json("POST", "/v2/repository/models/test/load")
        assert (status, error["code"]) == (409, 3001)
        assert server.json("POST", "/v2/models/test/infer", numbers(1, 1, 1, 1))[0] == 200  # the old one goes on


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


def guess(number: int) -> str:
    """Returns what is nearly the token."""
    near = [TOKEN[: number % len(TOKEN)], TOKEN[:-1] + chr(33 + number % 70), TOKEN.upper(), f"{TOKEN}\t{number}"]
    return f"Bearer {near[number % 4]}"


def test_with_a_token_nothing_is_told_without_it_and_none_that_is_guessed_passes(
    bundles: Path, tmp_path: Path, token_file: Path
) -> None:
    options = ("--token-file", token_file, "--host", "0.0.0.0")
    with Serving(tmp_path, bundles / "test", *ONE_THREAD, *options) as server:
        paths = ("/v2", "/v2/health/ready", "/v2/models/test", "/metrics", "/nowhere")
        wrong: tuple[dict[str, str], ...] = (
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer \xff\xfe"},
        )
        for path in paths:
            for headers in wrong:
                status, found, body = server.ask("GET", path, headers=headers)
                assert (status, found["www-authenticate"]) == (401, "Bearer")
                assert json.loads(body)["code"] == 2011
        with ThreadPoolExecutor(4) as pool:
            guessed = pool.map(lambda one: server.ask("GET", "/v2", headers={"Authorization": guess(one)}), range(80))
            assert {status for status, _, _ in guessed} == {401}
        right = {"Authorization": f"Bearer {TOKEN}"}
        status, _, text = server.ask("GET", "/metrics", headers=right)
        assert status == 200
        assert f'lineside_access_refused_total{{protocol="rest"}} {len(paths) * len(wrong) + 80}.0' in text.decode()
        port = server.grpc.rpartition(":")[2]
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            for headers in wrong[:4]:
                small = {key.lower(): value for key, value in headers.items()}
                with pytest.raises(InferenceServerException, match="token") as caught:
                    client.get_server_metadata(headers=small)
                assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
            given = triton_grpc.InferInput("x", [1, 4], "FP32")
            given.set_data_from_numpy(np.ones((1, 4), np.float32))
            answer = client.infer("test", [given], headers={"authorization": f"Bearer {TOKEN}"})
            assert answer.as_numpy("y").tolist() == [[2.0] * 4]
        with triton_http.InferenceServerClient(f"127.0.0.1:{server.http.rpartition(':')[2]}") as client:
            assert client.get_server_metadata(headers=right)["name"] == "lineside"
        assert TOKEN not in server.log
        assert "plain text" in server.log


def test_without_a_token_a_web_page_that_rebinds_its_name_gets_nothing(serving: Serving) -> None:
    assert serving.ask("GET", "/v2", headers={"Host": "evil.example:8000"})[0] == 403
    for name in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"):
        assert serving.ask("GET", "/v2", headers={"Host": name})[0] == 200


def test_tls_for_both_protocols(bundles: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    options = ("--tls-key", key, "--tls-cert", certificate)
    with Serving(tmp_path, bundles / "test", *ONE_THREAD, *options) as server:
        assert server.said["http"].startswith("https://")
        host, _, port = server.http.rpartition(":")
        context = ssl.create_default_context(cafile=str(certificate))
        with (
            socket.create_connection((host, int(port))) as plain,
            context.wrap_socket(plain, server_hostname=host) as it,
        ):
            it.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert it.recv(100).startswith(b"HTTP/1.1 200")
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        with triton_grpc.InferenceServerClient(server.grpc, creds=credentials) as client:
            assert client.is_server_ready()
