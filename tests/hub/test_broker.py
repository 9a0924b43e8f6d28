from __future__ import annotations

import functools
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside_hub.broker import run_broker
from lineside_link.client.client import LinkClient, LinkConfig
from lineside_runtime.errors import ConfigError
from tests.peers import free_port, wait_for
from tests.peers.processes import ChildProcess

Connect = Callable[..., LinkClient]


def broker_process(port: int, log: Path) -> ChildProcess:
    return ChildProcess([sys.executable, "-m", "lineside_hub", "broker", "--port", str(port)], log)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[ChildProcess]:
    """The broker of all tests, each of which has topics of its own; the last one ends it."""
    process = broker_process(port, tmp_path_factory.mktemp("broker") / "broker.log")
    process.start()
    wait_for(lambda: accepts(port), what="the embedded broker")
    yield process
    process.kill()


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def connect(port: int) -> Iterator[Connect]:
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


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = broker_process(port, tmp_path / "log")
        process.start()
        assert process.wait() == 1
    said = (tmp_path / "log").read_text()
    assert "[4003]" in said and "Traceback" not in said


def test_retained_messages_are_kept_replaced_and_cleared(embedded: ChildProcess, connect: Connect) -> None:
    writer = connect("writer")
    for payload in (b"1", b"2"):
        writer.publish("kept/kept", payload, retain=True)
    writer.publish("kept/cleared", b"1", retain=True)
    writer.publish("kept/cleared", b"", retain=True)
    seen: list[tuple[str, bytes]] = []
    echo = threading.Event()
    writer.subscribe("kept/end", lambda topic, payload: echo.set())
    writer.publish("kept/end", b"", retain=False)
    assert echo.wait(60)
    reader = connect("reader")
    reader.subscribe("kept/#", lambda topic, payload: seen.append((topic, payload)))
    wait_for(lambda: seen, what="the retained message")
    assert seen == [("kept/kept", b"2")]


def test_a_will_is_published_and_retained_when_its_client_vanishes(embedded: ChildProcess, connect: Connect) -> None:
    seen: list[bytes] = []
    connect("reader").subscribe("will/up", lambda topic, payload: seen.append(payload))
    gone = connect("gone", will=("will/up", b"no"))
    connection = gone._connection
    assert connection is not None
    connection.abort()
    wait_for(lambda: b"no" in seen, what="the will")
    late: list[bytes] = []
    connect("late").subscribe("will/up", lambda topic, payload: late.append(payload))
    # amqtt 0.12 sends it twice: also on connecting, because somebody else subscribes to the topic.
    wait_for(lambda: late, what="the retained will")
    assert set(late) == {b"no"}


def test_a_second_client_of_a_name_ends_the_connection_of_the_first(embedded: ChildProcess, connect: Connect) -> None:
    seen: list[bytes] = []
    connect("reader").subscribe("twin/up", lambda topic, payload: seen.append(payload))
    first = connect("twin", will=("twin/up", b"first"))
    connect("twin")
    wait_for(lambda: first.counters.get("disconnects", 0) >= 1, what="the end of the first connection")
    wait_for(lambda: b"first" in seen, what="its will")


def test_a_goodbye_publishes_no_will(embedded: ChildProcess, connect: Connect) -> None:
    seen: list[bytes] = []
    reader = connect("reader")
    reader.subscribe("goodbye/up", lambda topic, payload: seen.append(payload))
    leaving = connect("leaving", will=("goodbye/up", b"no"))
    leaving.close(last=("goodbye/up", b"left"))
    wait_for(lambda: seen == [b"left"], what="the goodbye")
    reader.publish("goodbye/up", b"after")
    wait_for(lambda: len(seen) > 1, what="a later message")
    assert seen == [b"left", b"after"]


@pytest.mark.parametrize("qos", [0, 1])
def test_chunks_with_their_head_arrive_whole_and_in_order(embedded: ChildProcess, connect: Connect, qos: int) -> None:
    seen: list[bytes] = []
    connect("reader").subscribe("chunks/chunk", lambda topic, payload: seen.append(payload), qos)
    writer = connect("writer")
    sent = [bytes([number]) * (65536 + 200) for number in range(64)]
    for payload in sent:
        wait_for(functools.partial(writer.publish, "chunks/chunk", payload, qos=qos), what="room for a chunk")
    wait_for(lambda: len(seen) == len(sent), what="all chunks")
    assert seen == sent


def test_the_module_says_how_it_is_used() -> None:
    ended = subprocess.run([sys.executable, "-m", "lineside_hub"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "run" in ended.stderr


def test_its_log_is_quiet_and_sigterm_ends_it_cleanly_with_clients_connected(
    embedded: ChildProcess, connect: Connect
) -> None:
    """What the clients of all tests above did, too, left no more than a few lines."""
    seen: list[bytes] = []
    link = connect("a")
    link.subscribe("quiet/y", lambda topic, payload: seen.append(payload))
    for _ in range(50):
        link.publish("quiet/y", b"z")
    wait_for(lambda: len(seen) == 50, what="the messages")
    for _ in range(500):
        link.publish("quiet/y", b"z")
    assert embedded.stop() == 0, "it ends while messages pass"
    assert "Traceback" not in embedded.log and len(embedded.log.splitlines()) <= 5
