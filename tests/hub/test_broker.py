from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lineside_hub.broker import run_broker
from lineside_link.client import LinkClient, LinkConfig
from lineside_runtime.errors import ConfigError


@pytest.fixture
def embedded(tmp_path: Path, port: int, process_class, waiting):
    process = process_class.module("broker", "--port", str(port), log=tmp_path / "broker.log")
    started = time.monotonic()
    process.start()
    waiting(lambda: accepts(port), "the embedded broker")
    process.took_s = time.monotonic() - started
    yield process
    process.kill()


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def connect(port: int):
    links: list[LinkClient] = []

    def make(name: str, will: tuple[str, bytes] | None = None) -> LinkClient:
        link = LinkClient(LinkConfig(url=f"mqtt://127.0.0.1:{port}", site="t"), name, will=will)
        links.append(link)
        link.start()
        assert link.wait_connected(60)
        return link

    yield make
    for link in links:
        link.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "broker.example", ""])
def test_it_lets_nobody_in_from_outside(host: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        run_broker(host, 1883)


def test_sigterm_ends_it_cleanly_with_clients_connected(embedded, connect) -> None:
    connect("a")
    assert embedded.stop() == 0
    assert "Traceback" not in embedded.log.read_text()


def test_a_taken_port_is_said(tmp_path: Path, process_class) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = process_class.module("broker", "--port", str(port), log=tmp_path / "log")
        process.start()
        assert process.wait() == 1
    assert "[4003]" in (tmp_path / "log").read_text()


def test_retained_messages_are_kept_replaced_and_cleared(embedded, connect, waiting) -> None:
    writer = connect("writer")
    for payload in (b"1", b"2"):
        writer.publish("x/kept", payload, retain=True)
    writer.publish("x/cleared", b"1", retain=True)
    writer.publish("x/cleared", b"", retain=True)
    seen: list[tuple[str, bytes]] = []
    echo = threading.Event()
    writer.subscribe("x/end", lambda topic, payload: echo.set())
    writer.publish("x/end", b"", retain=False)
    assert echo.wait(60)
    reader = connect("reader")
    reader.subscribe("x/#", lambda topic, payload: seen.append((topic, payload)))
    waiting(lambda: seen, "the retained message")
    assert seen == [("x/kept", b"2")]


def test_a_will_is_published_and_retained_when_its_client_vanishes(embedded, connect, waiting) -> None:
    seen: list[bytes] = []
    connect("reader").subscribe("x/up", lambda topic, payload: seen.append(payload))
    gone = connect("gone", will=("x/up", b"no"))
    connection = gone._connection
    assert connection is not None
    connection.abort()
    waiting(lambda: b"no" in seen, "the will")
    late: list[bytes] = []
    connect("late").subscribe("x/up", lambda topic, payload: late.append(payload))
    # amqtt 0.12 sends it twice: also on connecting, because somebody else subscribes to the topic.
    waiting(lambda: late, "the retained will")
    assert set(late) == {b"no"}


def test_a_goodbye_publishes_no_will(embedded, connect, waiting) -> None:
    seen: list[bytes] = []
    reader = connect("reader")
    reader.subscribe("x/up", lambda topic, payload: seen.append(payload))
    leaving = connect("leaving", will=("x/up", b"no"))
    leaving.close(last=("x/up", b"left"))
    waiting(lambda: seen == [b"left"], "the goodbye")
    reader.publish("x/up", b"after")
    waiting(lambda: len(seen) > 1, "a later message")
    assert seen == [b"left", b"after"]


@pytest.mark.parametrize("qos", [0, 1])
def test_chunks_with_their_head_arrive_whole_and_in_order(embedded, connect, waiting, qos: int) -> None:
    seen: list[bytes] = []
    connect("reader").subscribe("x/chunk", lambda topic, payload: seen.append(payload), qos)
    writer = connect("writer")
    sent = [bytes([number]) * (65536 + 200) for number in range(64)]
    for payload in sent:
        waiting(lambda payload=payload: writer.publish("x/chunk", payload, qos=qos), "room for a chunk")
    waiting(lambda: len(seen) == len(sent), "all chunks")
    assert seen == sent


def test_its_log_is_quiet(embedded, connect, waiting) -> None:
    seen: list[bytes] = []
    link = connect("a")
    link.subscribe("x/y", lambda topic, payload: seen.append(payload))
    for _ in range(50):
        link.publish("x/y", b"z")
    waiting(lambda: len(seen) == 50, "the messages")
    link.close()
    assert embedded.stop() == 0
    assert len(embedded.log.read_text().splitlines()) <= 5


def test_the_module_says_how_it_is_used() -> None:
    ended = subprocess.run([sys.executable, "-m", "lineside_hub"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "run" in ended.stderr
