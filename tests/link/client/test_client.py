"""The client against real brokers: what it promises when they come, go, refuse and lie."""

from __future__ import annotations

import logging
import queue
import random
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from lineside_hub.identity.authority import HUB_NAME, Authority
from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_runtime.errors import BrokerError, ConfigError, InputError
from lineside_runtime.serving.backoff import Backoff
from tests.peers import (
    Broker,
    FaultProxy,
    Mosquitto,
    PasswordMosquitto,
    RefusingBroker,
    SecureMosquitto,
    find_mosquitto,
    wait_for,
)

MakeClient = Callable[..., LinkClient]


class Inbox:
    """A handler that keeps what comes."""

    def __init__(self) -> None:
        self.messages: queue.Queue[tuple[str, bytes]] = queue.Queue()

    def __call__(self, topic: str, payload: bytes) -> None:
        self.messages.put((topic, payload))

    def next(self, timeout_s: float = 5.0) -> tuple[str, bytes]:
        return self.messages.get(timeout=timeout_s)


def connected(client: LinkClient) -> LinkClient:
    client.start()
    assert client.wait_connected(60), client.last_error
    return client


def test_a_message_reaches_the_handler_of_its_filter_and_no_other(mosquitto: Broker, make_client: MakeClient) -> None:
    client = make_client(mosquitto.config(), "a")
    mine, other = Inbox(), Inbox()
    client.subscribe("ls/+/mine", mine)
    client.subscribe("ls/x/other", other)
    connected(client)
    assert client.publish("ls/x/mine", b"\x00payload")
    assert mine.next() == ("ls/x/mine", b"\x00payload")
    assert other.messages.empty()


def test_a_subscription_made_while_connected_works_and_is_remembered(
    mosquitto: Broker, make_client: MakeClient
) -> None:
    client = connected(make_client(mosquitto.config(), "a"))
    inbox = Inbox()
    client.subscribe("late", inbox)
    wait_for(lambda: client.publish("late", b"1") and not inbox.messages.empty())
    mosquitto.restart()
    wait_for(lambda: client.counters["connects"] == 2 and client.connected)
    while not inbox.messages.empty():
        inbox.next()
    assert client.publish("late", b"2")
    assert inbox.next() == ("late", b"2")


def test_subscribing_again_replaces_the_handler(mosquitto: Broker, make_client: MakeClient) -> None:
    client = make_client(mosquitto.config(), "a")
    first, second = Inbox(), Inbox()
    client.subscribe("t", first)
    client.subscribe("t", second)
    connected(client)
    client.publish("t", b"1")
    assert second.next() == ("t", b"1")
    assert first.messages.empty()


def test_hooks_run_after_the_subscriptions_on_every_connection(mosquitto: Broker, make_client: MakeClient) -> None:
    client = make_client(mosquitto.config(), "a")
    inbox = Inbox()
    client.subscribe("state", inbox)

    def tell() -> None:
        client.publish("state", b"mine", retain=True)

    client.on_connect(tell)
    connected(client)
    assert inbox.next() == ("state", b"mine")
    mosquitto.restart()
    assert inbox.next(20) == ("state", b"mine")


def test_without_a_broker_nothing_is_queued_behind_the_callers_back(mosquitto: Broker, make_client: MakeClient) -> None:
    client = make_client(mosquitto.config(), "a")
    inbox = Inbox()
    client.subscribe("t", inbox)
    connected(client)
    mosquitto.kill()
    wait_for(lambda: not client.connected)
    assert not client.publish("t", b"stale", qos=1)
    assert not client.publish("t", b"stale", qos=0)
    assert client.counters["not_sent"] == 2
    mosquitto.start()
    assert client.wait_connected(60)
    assert client.publish("t", b"fresh")
    assert inbox.next() == ("t", b"fresh")


def test_what_was_not_acknowledged_is_not_replayed(
    mosquitto: Broker, make_client: MakeClient, fault_proxy: Callable[[int], FaultProxy]
) -> None:
    proxy = fault_proxy(mosquitto.port)
    inbox = Inbox()
    watcher = make_client(mosquitto.config(), "watcher")
    watcher.subscribe("t", inbox)
    connected(watcher)
    client = connected(make_client(mosquitto.config(port=proxy.port), "a"))
    proxy.stall()
    assert client.publish("t", b"lost in the stall", qos=1)
    proxy.cut()
    wait_for(lambda: not client.connected)
    proxy.flow()
    wait_for(lambda: client.connected)
    client.publish("t", b"newer state", qos=1)
    assert inbox.next() == ("t", b"newer state")


def test_starting_before_the_broker_is_fine(make_client: MakeClient, tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path, program=find_mosquitto())
    client = make_client(broker.config(), "a")
    client.start()
    wait_for(lambda: client.counters.get("connect_failures", 0) >= 2)
    assert isinstance(client.last_error, BrokerError)
    assert client.last_error.code == 4003
    assert str(broker.port) in str(client.last_error)
    broker.start()
    try:
        assert client.wait_connected(60)
        assert client.last_error is None
    finally:
        broker.stop()


def test_the_last_will_is_published_for_a_client_that_vanishes(mosquitto: Broker, make_client: MakeClient) -> None:
    inbox = Inbox()
    watcher = make_client(mosquitto.config(), "watcher")
    watcher.subscribe("d/a/up", inbox)
    connected(watcher)
    client = connected(make_client(mosquitto.config(), "a", will=("d/a/up", b"gone")))
    assert client._connection is not None
    raw = client._connection._socket
    assert raw is not None
    raw.shutdown(socket.SHUT_RDWR)
    assert inbox.next() == ("d/a/up", b"gone")


def test_closing_says_the_last_word_and_not_the_will(mosquitto: Broker, make_client: MakeClient) -> None:
    inbox = Inbox()
    watcher = make_client(mosquitto.config(), "watcher")
    watcher.subscribe("d/a/up", inbox)
    connected(watcher)
    client = connected(make_client(mosquitto.config(), "a", will=("d/a/up", b"gone")))
    client.close(last=("d/a/up", b"bye"))
    client.close()
    assert inbox.next() == ("d/a/up", b"bye")
    watcher.publish("d/a/up", b"end")
    assert inbox.next() == ("d/a/up", b"end"), "the will came behind a graceful close"
    late = Inbox()
    second = make_client(mosquitto.config(), "second")
    second.subscribe("d/a/up", late)
    connected(second)
    assert late.next() == ("d/a/up", b"bye"), "the last word is retained"


def test_a_handlers_error_is_logged_and_the_client_lives_on(
    mosquitto: Broker, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(mosquitto.config(), "a")
    inbox = Inbox()

    def handle(topic: str, payload: bytes) -> None:
        if payload == b"bad":
            raise InputError("cannot read it")
        inbox(topic, payload)

    client.subscribe("t", handle)
    connected(client)
    client.publish("t", b"bad")
    client.publish("t", b"good")
    assert inbox.next() == ("t", b"good")
    assert client.counters["handler_errors"] == 1
    assert "cannot read it" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_handlers_defect_breaks_the_link_and_does_not_leave_a_deaf_client(
    mosquitto: Broker, make_client: MakeClient
) -> None:
    inbox = Inbox()
    watcher = make_client(mosquitto.config(), "watcher")
    watcher.subscribe("up", inbox)
    connected(watcher)
    client = make_client(mosquitto.config(), "a", will=("up", b"gone"))

    def defect(_topic: str, _payload: bytes) -> None:
        raise ZeroDivisionError

    client.subscribe("t", defect)
    connected(client)
    client.publish("t", b"x")
    assert inbox.next() == ("up", b"gone")
    wait_for(lambda: not client.connected)
    assert client.failed
    assert "defect" in str(client.last_error)


def test_handlers_run_one_at_a_time_in_order_and_not_in_the_network_thread(
    mosquitto: Broker, make_client: MakeClient
) -> None:
    client = make_client(mosquitto.config(), "a")
    seen: list[bytes] = []
    threads: set[str] = set()
    done = threading.Event()

    def handle(_topic: str, payload: bytes) -> None:
        seen.append(payload)
        threads.add(threading.current_thread().name)
        if len(seen) == 600:
            done.set()

    client.subscribe("t", handle)
    connected(client)
    expected = [str(number).encode() for number in range(600)]
    assert all(client.publish("t", payload) for payload in expected)
    assert done.wait(60)
    assert seen == expected
    assert threads == {"link-handlers-a"}


def test_slow_handlers_hold_the_broker_back_and_lose_nothing(mosquitto: Broker, make_client: MakeClient) -> None:
    client = make_client(mosquitto.config(), "a")
    release = threading.Event()
    seen: list[bytes] = []

    def handle(_topic: str, payload: bytes) -> None:
        release.wait(60)
        seen.append(payload)

    client.subscribe("t", handle)
    connected(client)
    sender = connected(make_client(mosquitto.config(), "sender"))
    waiting = [str(number).encode() for number in range(900)]
    while waiting:
        wait_for(lambda: sender.publish("t", waiting[0]))
        del waiting[0]
    wait_for(client._events.full)
    release.set()
    wait_for(lambda: len(seen) == 900)
    assert seen == [str(number).encode() for number in range(900)]


def _threads_publish_at_once(sender: LinkClient, receiver: LinkClient, topic: str) -> None:
    """Whole messages arrive, each thread's in its order, though the threads write to one socket."""
    seen: dict[int, list[bytes | bytearray]] = {number: [] for number in range(4)}
    receiver.subscribe_direct(topic, lambda _topic, payload: seen[payload[0]].append(payload))
    connected(receiver)
    connected(sender)
    rounds = 40

    def body(number: int, turn: int) -> bytes:
        return bytes([number, turn]) + random.Random(number * 1000 + turn).randbytes(60_000 + number * 5_000)

    def publish(number: int) -> None:
        for turn in range(rounds):
            wait_for(partial(sender.publish, topic, body(number, turn), qos=0), 60)

    threads = [threading.Thread(target=publish, args=(number,)) for number in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    wait_for(lambda: all(len(messages) == rounds for messages in seen.values()), 60)
    for number, messages in seen.items():
        assert messages == [body(number, turn) for turn in range(rounds)]


def test_threads_that_publish_at_once_do_not_tear_each_others_messages(
    mosquitto: Broker, make_client: MakeClient
) -> None:
    config = mosquitto.config()
    _threads_publish_at_once(make_client(config, "sender"), make_client(config, "receiver"), "large")


def test_nor_do_they_with_tls(secure_mosquitto: SecureMosquitto, make_client: MakeClient) -> None:
    hub = make_client(secure_mosquitto.config(), HUB_NAME)
    device = make_client(secure_mosquitto.config("cam-1"), "cam-1")
    _threads_publish_at_once(hub, device, "ls/v1/t0/d/cam-1/repo/rsp")
    assert device._connection is not None
    raw = device._connection._socket
    assert raw is not None
    assert raw.version() in ("TLSv1.2", "TLSv1.3")


def test_publishing_while_the_broker_dies_is_refused_and_raises_nothing(
    mosquitto: Broker, make_client: MakeClient
) -> None:
    client = connected(make_client(mosquitto.config(), "a"))
    stop = threading.Event()

    def publish() -> None:  # what it raises fails the test: warnings are errors, and pytest warns of it
        while not stop.is_set():
            client.publish("t", bytes(60_000), qos=0)

    def connected_again(times: int) -> bool:
        return client.counters["connects"] >= times and client.connected

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(3):
            mosquitto.restart()
            wait_for(partial(connected_again, number + 2), 60)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def test_a_peer_that_takes_nothing_is_not_fed_without_end(
    mosquitto: Broker, make_client: MakeClient, fault_proxy: Callable[[int], FaultProxy]
) -> None:
    proxy = fault_proxy(mosquitto.port)
    client = connected(make_client(mosquitto.config(port=proxy.port), "a"))
    proxy.stall()
    results = [client.publish("t", bytes(1 << 20), qos=0) for _ in range(64)]
    assert results[0]
    assert not results[-1]
    assert client.counters["not_sent"] >= 64 - 16 - 8


def test_a_broker_that_accepts_and_kicks_is_not_hammered(make_client: MakeClient) -> None:
    attempts: list[float] = []
    server = socket.create_server(("127.0.0.1", 0))

    def accept_and_kick() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(1024)
                connection.sendall(b"\x20\x02\x00\x00")  # CONNACK, accepted
            attempts.append(time.monotonic())

    threading.Thread(target=accept_and_kick, daemon=True).start()
    url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
    client = make_client(LinkConfig(url, "t0", reconnect_min_s=0.2, reconnect_max_s=10.0), "a")
    client.start()
    wait_for(lambda: len(attempts) >= 5)
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    # Pauses double from 0.2 s; jitter takes away at most a half.
    assert attempts[4] - attempts[0] >= 0.9 * (0.1 + 0.2 + 0.4 + 0.8)
    assert client.counters["connects"] >= 4, "each attempt was accepted"


def test_a_silent_connection_is_found_out(
    mosquitto: Broker, make_client: MakeClient, fault_proxy: Callable[[int], FaultProxy]
) -> None:
    proxy = fault_proxy(mosquitto.port)
    config = msgspec.structs.replace(mosquitto.config(port=proxy.port), keepalive_s=1)
    client = connected(make_client(config, "a"))
    proxy.stall()
    wait_for(lambda: not client.connected)
    proxy.flow()
    proxy.cut()
    assert client.wait_connected(60)


def test_garbage_instead_of_mqtt_is_a_lost_connection_and_no_crash(make_client: MakeClient) -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def answer_with_garbage() -> None:
        for payload in (b"\x20\x02\x00\x00\x30\x02\x00\xff", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x90\x01\x00"):
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(payload)

    thread = threading.Thread(target=answer_with_garbage, daemon=True)
    thread.start()
    url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
    client = make_client(LinkConfig(url, "t0", reconnect_min_s=0.01, reconnect_max_s=0.05), "a")
    client.start()
    thread.join(60)
    server.close()
    wait_for(lambda: client.counters.get("connect_failures", 0) >= 3)
    assert client.last_error is not None
    assert client.last_error.code == 4003


# Who one is.


def test_a_wrong_password_is_an_error_that_says_what_to_do(make_client: MakeClient, tmp_path: Path) -> None:
    broker = PasswordMosquitto(tmp_path / "broker", program=find_mosquitto())
    broker.start()
    password = tmp_path / "password"
    try:
        for text, welcome in (("wrong", False), ("right", True)):
            password.write_text(text + "\n")
            password.chmod(0o600)
            config = LinkConfig(broker.url, "t0", username="cam-1", password_file=str(password), reconnect_min_s=0.05)
            client = make_client(config, "cam-1")
            client.start()
            assert client.wait_connected(1.0 if not welcome else 10.0) is welcome
            if not welcome:
                assert isinstance(client.last_error, BrokerError)
                assert "password_file" in client.last_error.action
                assert text not in str(client.last_error)
            client.close()
    finally:
        broker.stop()


def test_a_refused_subscription_is_named_and_tried_again_and_the_others_live(
    make_client: MakeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside_link.client.client.SUBSCRIBE_AGAIN", Backoff(0.05, 0.2))
    broker = RefusingBroker(tmp_path)
    broker.start()
    try:
        client = make_client(broker.config(), "a")
        inbox = Inbox()
        late = Inbox()
        client.subscribe("prohibited", late)
        client.subscribe("allowed", inbox)
        connected(client)
        assert client.publish("allowed", b"1")
        assert inbox.next() == ("allowed", b"1")
        assert client.counters["subscriptions_refused"] == 1
        assert isinstance(client.last_error, BrokerError)
        assert "prohibited" in str(client.last_error)
        assert "ACL" in client.last_error.action
        assert "prohibited" in caplog.text
        broker.allow()
        wait_for(lambda: client.last_error is None, what="the subscription, on the same connection")
        assert client.publish("prohibited", b"2")
        assert late.next() == ("prohibited", b"2")
        assert client.counters["connects"] == 1 and caplog.text.count("refused the subscription") == 1
    finally:
        broker.stop()


def test_a_broker_of_another_authority_is_refused(
    secure_mosquitto: SecureMosquitto, make_client: MakeClient, tmp_path: Path
) -> None:
    foreign = Authority.create(tmp_path / "foreign", site="t0").enroll("cam-1", group="line")
    client = make_client(secure_mosquitto.config_with(foreign), "cam-1")
    client.start()
    wait_for(lambda: "the broker's certificate is refused" in str(client.last_error))
    assert client.counters.get("connects", 0) == 0


def test_a_broker_with_another_name_is_refused(make_client: MakeClient, tmp_path: Path) -> None:
    broker = SecureMosquitto(tmp_path, program=find_mosquitto(), host="10.9.8.7")
    broker.start()
    try:
        client = make_client(broker.config("cam-1"), "cam-1")
        client.start()
        wait_for(lambda: "the broker's certificate doesn't name 127.0.0.1" in str(client.last_error))
        assert client.counters.get("connects", 0) == 0
    finally:
        broker.stop()


def test_an_unreadable_key_is_said_at_the_start(tmp_path: Path) -> None:
    config = LinkConfig("mqtts://127.0.0.1", "t0", ca=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=r"none\.pem"):
        LinkClient(config, "a").start()


def test_an_open_connection_beyond_this_machine_is_warned_about(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        client = make_client(LinkConfig("mqtt://broker.invalid", "t0"), "a")
        client.start()
    assert "not encrypted" in caplog.text
