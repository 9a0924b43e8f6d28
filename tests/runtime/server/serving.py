"""A real ``lineside serve`` in a process of its own."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

START_TIMEOUT_S = 60


class Serving:
    """The process; ended when the ``with`` block is left.

    Attributes:
        http: ``host:port`` of the REST API.
        grpc: ``host:port`` of the gRPC API.
    """

    def __init__(self, folder: Path, *arguments: object, ports: tuple[int, int] = (0, 0)) -> None:
        self._log = folder / "serve.log"
        ports_ = ("--http-port", ports[0], "--grpc-port", ports[1])
        command = [sys.executable, "-W", "error", "-m", "lineside", "serve", "--json", *ports_, *arguments]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=log)
        line = self.process.stdout.readline() if self.process.stdout else b""
        self.said = json.loads(line or "{}")
        if "http" not in self.said:
            self.wait()
            raise AssertionError(f"the server did not start: {self.said} {self.log}")
        self.http = self.said["http"].partition("//")[2]
        self.grpc = self.said["grpc"]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)  # the second one ends the draining
        self.wait()

    def wait(self) -> int:
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            if self.process.stdout:
                self.process.stdout.close()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.http, timeout=60)

    def socket(self) -> socket.socket:
        host, _, port = self.http.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=60)

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Returns status, headers in lower case and body of one request."""
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, value: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        body = None if value is None else json.dumps(value)
        status, _, answer = self.ask(method, path, body, headers)
        return status, json.loads(answer)

    def metric(self, name: str, **labels: str) -> float:
        """Returns the sum of the samples of that name that have these labels, as Prometheus would read them."""
        status, _, text = self.ask("GET", "/metrics")
        assert status == 200
        samples = [
            sample
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(sample.value for sample in samples)


def call(n: int = 1, **extra: Any) -> dict[str, Any]:
    """Returns the JSON request for `models.busy`."""
    return {"inputs": [{"name": "n", "shape": [1], "datatype": "INT64", "data": [n]}], **extra}
