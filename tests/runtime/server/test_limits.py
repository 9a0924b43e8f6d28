from __future__ import annotations

import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from lineside_runtime.errors import ConfigError, DeadlineExceededError, OverloadedError
from lineside_runtime.server.grpc_ import bind
from lineside_runtime.server.http_ import read_tls
from lineside_runtime.server.limits import AdmissionGate, MemoryBudget, ServerLimits


def test_values_that_make_no_sense_are_refused() -> None:
    wrong_values: tuple[dict[str, Any], ...] = (
        {"workers": 0},
        {"max_body_bytes": -1},
        {"request_timeout_s": 0.0},
        {"workers": 5, "max_in_flight": 4},
        {"max_body_bytes": 1 << 31},
        {"request_timeout_s": 1e300},
        {"header_timeout_s": 86_401.0},
    )
    for wrong in wrong_values:
        with pytest.raises(ConfigError):
            ServerLimits(**wrong)
    assert ServerLimits().workers >= 1
    server = grpc.server(ThreadPoolExecutor(1))
    for port in (-1, 65_536):
        with pytest.raises(ConfigError, match="--grpc-port"):
            bind(server, f"127.0.0.1:{port}", None)


def test_a_key_that_does_not_fit_or_has_a_password_is_refused(tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=a"]
    for name, password in (("plain", ("-nodes",)), ("other", ("-nodes",)), ("secret", ("-passout", "pass:secret"))):
        files = ("-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.pem")
        subprocess.run([*command, *password, *files], check=True, capture_output=True)
    assert read_tls(tmp_path / "plain.key", tmp_path / "plain.pem") is not None
    for key, certificate in (("plain.key", "other.pem"), ("plain.pem", "plain.key"), ("secret.key", "secret.pem")):
        with pytest.raises(ConfigError, match="TLS"):
            read_tls(tmp_path / key, tmp_path / certificate)


def test_one_more_than_may_be_in_flight_is_refused_until_one_leaves() -> None:
    gate = AdmissionGate(ServerLimits(workers=1, max_in_flight=2))
    gate.enter()
    gate.enter()
    with pytest.raises(OverloadedError, match="at most 2 calls at once"):
        gate.enter()
    gate.leave()
    gate.enter()
    assert gate.in_flight == 2


def test_a_call_that_is_not_let_run_in_time_ends() -> None:
    gate = AdmissionGate(ServerLimits(workers=1, max_in_flight=2))
    with gate.turn(60.0) as waited_s:
        assert waited_s >= 0
        with pytest.raises(DeadlineExceededError), gate.turn(0.01):
            pass
        with pytest.raises(DeadlineExceededError), gate.turn(-1.0):
            pass
    with gate.turn(60.0):
        pass


def test_never_more_than_the_workers_run() -> None:
    gate = AdmissionGate(ServerLimits(workers=3, max_in_flight=50))
    lock, running, seen = threading.Lock(), [0], Counter[int]()
    met = threading.Barrier(3)

    def call() -> None:
        with gate.turn(60.0):
            with lock:
                running[0] += 1
                seen[running[0]] += 1
            met.wait(60)  # three at a time, or nobody goes on
            with lock:
                running[0] -= 1

    threads = [threading.Thread(target=call) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(seen) <= 3
    assert seen[3] >= 1
    assert sum(seen.values()) == 30


def test_bodies_share_a_budget() -> None:
    budget = MemoryBudget(10)
    budget.take(6)
    with pytest.raises(OverloadedError):
        budget.take(5)
    budget.take(4)
    budget.give_back(6)
    budget.take(6)
