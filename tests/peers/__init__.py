"""Real peers for the tests, as a pytest plugin: ``pytest_plugins = ["tests.peers"]`` in ``tests/conftest.py``.

| fixture | what |
| --- | --- |
| ``mosquitto`` | Debian's broker on a free loopback port; anybody may connect |
| ``secure_mosquitto`` | the same with mutual TLS and the hub's access list |
| ``embedded_broker`` | amqtt, as in ``lineside demo`` |
| ``broker`` | ``mosquitto`` and ``embedded_broker``: the test runs twice |
| ``redis_server`` | Debian's redis-server on a free loopback port |
| ``redis_cluster`` | three of them as one cluster without replicas |
| ``rtsp_server`` | GStreamer's RTSP server on a free loopback port; can be frozen and killed |
| ``gige_camera`` | Aravis' GigE Vision camera at 127.0.0.1; can be frozen and killed |
| ``fault_proxy`` | makes a `FaultProxy` in front of a port: cut, stall, refuse, flip bits |

A broker has ``start``, ``stop``, ``kill``, ``restart`` (on the same port), ``url`` and ``config(client_id)``.
`wait_for` waits for a condition; no test sleeps. `free_port` gives each peer a port of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers.brokers import (
    Broker,
    EmbeddedBroker,
    Mosquitto,
    PasswordMosquitto,
    RefusingBroker,
    SecureMosquitto,
    find_mosquitto,
)
from tests.peers.cameras import CameraProcess, RtspServer, _rtsp_server, gige_camera, rtsp_server
from tests.peers.proxy import FaultProxy
from tests.peers.redis_server import RedisServer, running_cluster, running_server
from tests.peers.waiting import free_port, wait_for

__all__ = [
    "Broker",
    "CameraProcess",
    "EmbeddedBroker",
    "FaultProxy",
    "Mosquitto",
    "PasswordMosquitto",
    "RedisServer",
    "RefusingBroker",
    "RtspServer",
    "SecureMosquitto",
    "_rtsp_server",
    "find_mosquitto",
    "free_port",
    "gige_camera",
    "rtsp_server",
    "wait_for",
]


def _run(broker: Broker) -> Iterator[Broker]:
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    yield from _run(Mosquitto(tmp_path / "mosquitto", program=find_mosquitto()))


@pytest.fixture
def secure_mosquitto(tmp_path: Path) -> Iterator[Broker]:
    yield from _run(SecureMosquitto(tmp_path / "mosquitto-tls", program=find_mosquitto()))


@pytest.fixture
def embedded_broker(tmp_path: Path) -> Iterator[Broker]:
    yield from _run(EmbeddedBroker(tmp_path / "amqtt"))


@pytest.fixture(params=["mosquitto", "embedded_broker"])
def broker(request: pytest.FixtureRequest) -> Broker:
    running: Broker = request.getfixturevalue(request.param)
    return running


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def redis_cluster(tmp_path: Path) -> Iterator[list[RedisServer]]:
    with running_cluster(tmp_path / "redis-cluster") as servers:
        yield servers


@pytest.fixture
def fault_proxy() -> Iterator[Callable[[int], FaultProxy]]:
    proxies: list[FaultProxy] = []

    def make(target_port: int) -> FaultProxy:
        proxies.append(FaultProxy(target_port))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()
