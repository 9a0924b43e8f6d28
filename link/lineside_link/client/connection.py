"""One connection to the broker, from CONNECT to its end.

Each connection has a paho client of its own. Otherwise paho would repeat unacknowledged messages after the newer state
that the caller publishes on reconnection. Callers that must deliver (the outbox, retained state) send again from disk.

Received messages go through one bounded queue, apart from those for direct handlers; no other work is done in the
network thread.

paho implements the protocol, driven by `loop_read`, `loop_write` and `loop_misc`, except for messages of QoS 0, which
come by the thousand: `ReadAhead` takes them before paho sees them, and `send` writes them to the socket without
copying.

- Only the network thread reads.
- A publishing thread writes as much as the socket takes at once; the network thread writes the rest. One thread writes
  at a time (``_writing``).
- With TLS only the network thread writes, because a TLS socket must not be read and written at the same time.
- A packet starts only after the previous one is written completely.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import queue
import selectors
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt import MQTTException
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from lineside_link.client.outgoing import OutgoingMessage
from lineside_link.client.packets import publish_head, split_publish
from lineside_link.client.read_ahead import ReadAhead, ReadAheadClient
from lineside_link.client.tls_failures import tls_failure
from lineside_link.clock import system_now
from lineside_link.config import LinkConfig, Now
from lineside_runtime.errors import BrokerError

log = logging.getLogger("lineside.link")

UNSENT_MAX_BYTES = 16 << 20
"""Limit of bytes that wait for the socket or for PUBACK; beyond it `Connection.publish` refuses."""

CONNECT_TIMEOUT_S = 5.0

READS_MAX = 64
"""Packets that are read before the next write."""

_WAIT_S = 0.5

_BROKEN = (OSError, ValueError, IndexError, struct.error, MQTTException)
"""Exceptions of paho's loop for a broken socket or a malformed packet."""


@dataclasses.dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A received message.

    Attributes:
        retained: Whether the broker retained it from before the subscription.
    """

    topic: str
    payload: bytes
    retained: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Acknowledged:
    """SUBACK: one code for each filter, 128 and more for a refusal."""

    connection: Connection
    mid: int
    codes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """The broker accepted the connection, and there are no subscriptions."""

    connection: Connection


Event = ReceivedMessage | Acknowledged | ConnectionOpened


class Connection:
    """One MQTT connection.

    Args:
        context: TLS, or ``None``.
        will: Topic and payload of the last will (QoS 1, retained).
        events: Queue of received messages; when it is full, the network thread waits, which slows the sender down.
        direct: Called with each message in the network thread; returns true if the message need not be queued.
        on_socket: Called in the network thread after CONNECT is sent. Packets may follow at once (MQTT 3.1.1, section
            3.1.4), so that subscribing needs no further round trip.
        on_open: Called in the network thread on CONNACK.
        now: As for `LinkConfig.tls_context`.
    """

    def __init__(
        self,
        config: LinkConfig,
        client_id: str,
        *,
        context: ssl.SSLContext | None,
        will: tuple[str, bytes] | None,
        events: queue.Queue[Event | None],
        direct: Callable[[str, bytearray], bool],
        on_socket: Callable[[Connection], None],
        on_open: Callable[[Connection], None],
        now: Now | None = None,
    ) -> None:
        self.error: BrokerError | None = None
        self.subscribing: dict[int, tuple[str, ...]] = {}
        self.refused: dict[str, int] = {}
        self.accepted = False
        self._config = config
        self._events = events
        self._direct = direct
        self._on_socket = on_socket
        self._on_open = on_open
        self._now = now or system_now
        self._leaving = threading.Event()
        self._ending = threading.Event()
        self._socket: ReadAhead | None = None
        self._writing = threading.Lock()
        self._publisher_writes = context is None
        self._write_failed = MQTTErrorCode.MQTT_ERR_SUCCESS
        self._wake_up, self._woken = socket.socketpair()
        for end in (self._wake_up, self._woken):
            end.setblocking(False)
        self._outgoing = OutgoingMessage()
        self._unsent: collections.deque[tuple[mqtt.MQTTMessageInfo, int]] = collections.deque()
        self._unsent_bytes = 0
        self._unsent_lock = threading.Lock()
        self._paho = self._make_client(client_id, context, will)

    def _make_client(
        self, client_id: str, context: ssl.SSLContext | None, will: tuple[str, bytes] | None
    ) -> ReadAheadClient:
        client = ReadAheadClient(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=True,
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(100)
        client.max_queued_messages_set(1000)
        if self._config.username is not None:
            client.username_pw_set(self._config.username, self._config.password())
        if context is not None:
            client.tls_set_context(context)
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        client.on_socket_open = self._socket_opened
        # With this callback, paho leaves writing to `_write`; without it, a publishing thread would write to the socket
        # at the same time as the network thread.
        client.on_socket_register_write = _no_write_callback
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_message = self._arrived
        return client

    def run(self) -> None:
        """Connects and serves the connection in the caller's thread until it ends; `error` is the reason."""
        try:
            self._paho.connect(self._config.host, self._config.port, keepalive=self._config.keepalive_s)
            self._on_socket(self)
            with selectors.DefaultSelector() as selector:
                self._note_end(mqtt.error_string(self._serve(selector)))
        except _BROKEN as error:
            self._note_end(str(error), error)
        finally:
            self._release()

    def _serve(self, selector: selectors.BaseSelector) -> MQTTErrorCode:
        selector.register(self._woken, selectors.EVENT_READ)
        if self._socket is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        selector.register(self._socket, selectors.EVENT_READ)
        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        while code == MQTTErrorCode.MQTT_ERR_SUCCESS and not self._ending.is_set():
            self._wait(selector, self._socket)
            code = self._write_failed or self._read(self._socket) or self._write() or self._paho.loop_misc()
        return code

    def _wait(self, selector: selectors.BaseSelector, sock: ReadAhead) -> None:
        """Waits until the socket is readable or writable, or `_wake` is called."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._wants_write() else 0)
        if selector.get_key(sock).events != wanted:
            selector.modify(sock, wanted)
        for key, _ in selector.select(_WAIT_S if sock.drained else 0):
            if key.fileobj is self._woken:
                self._woken.recv(4096)

    def _read(self, sock: ReadAhead) -> MQTTErrorCode:
        taken = 0
        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        for _ in range(READS_MAX):
            packet = sock.take()
            if packet is not None:
                taken += 1
                self._take(packet)
            elif sock.for_paho:
                code = self._paho.loop_read()
            if code != MQTTErrorCode.MQTT_ERR_SUCCESS or sock.drained:
                break
        if taken:
            self._paho.note_received()
        return code

    def _wants_write(self) -> bool:
        return bool(self._outgoing) or self._paho.want_write()

    def _write(self) -> MQTTErrorCode:
        with self._writing:
            return self._write_on() if self._wants_write() else MQTTErrorCode.MQTT_ERR_SUCCESS

    def _write_on(self) -> MQTTErrorCode:
        """Writes a partly written message, then paho's packets, then ours; before DISCONNECT all of ours first."""
        sock = self._socket
        if sock is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        if (self._outgoing.begun or self._leaving.is_set()) and not self._outgoing.write(
            sock, all_of_it=self._leaving.is_set()
        ):
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        if self._paho.want_write():
            code = self._paho.loop_write()
            if code != MQTTErrorCode.MQTT_ERR_SUCCESS or self._paho.want_write():
                return code
        self._outgoing.write(sock, all_of_it=True)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _flush(self) -> None:
        """Writes queued messages if this thread may, and leaves the rest to the network thread."""
        if self._publisher_writes and self._writing.acquire(blocking=False):
            try:
                self._write_failed = self._write_on()
            except OSError as error:
                self._note_end(str(error), error)
                self._write_failed = MQTTErrorCode.MQTT_ERR_CONN_LOST
            finally:
                self._writing.release()
        if self._write_failed != MQTTErrorCode.MQTT_ERR_SUCCESS or self._wants_write():
            self._wake()

    def _wake(self) -> None:
        # A full pipe wakes the network thread too; after the end the pipe is closed.
        with contextlib.suppress(OSError):
            self._wake_up.send(b"\0")

    def _release(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._wake_up.close()
        self._woken.close()
        # Breaks the reference cycle, so that paho's sockets are closed now.
        self._paho.on_connect = self._paho.on_subscribe = self._paho.on_message = self._paho.on_socket_open = None

    def _note_end(self, reason: str, cause: Exception | None = None) -> None:
        if self.error is not None or self._leaving.is_set() or self._ending.is_set():
            return
        named = None if self.accepted else tls_failure(self._config, cause, now=self._now())
        self.error = named or BrokerError(
            f"{self._config.url}: {reason.rstrip('.')}",
            action="Check that the broker runs and can be reached, and the certificates if it asks for them; "
            "the connection is tried again by itself.",
        )
        self.error.__cause__ = cause

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Sends one SUBSCRIBE; `Acknowledged` comes back as an event."""
        code, mid = self._paho.subscribe(list(filters))
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS and mid is not None:
            self.subscribing[mid] = tuple(topic for topic, _ in filters)
        self._flush()

    def unsubscribe(self, topic: str) -> None:
        """Sends one UNSUBSCRIBE; some messages may still arrive.

        Args:
            topic: Filter as it was subscribed to.
        """
        self._paho.unsubscribe(topic)
        self._flush()

    def send(self, topic: str, *pieces: bytes) -> bool:
        """Queues a message of QoS 0 for the socket, without copying it.

        Args:
            pieces: The payload in order; must not change any more.

        Returns:
            Whether it was queued; not if too much waits already.
        """
        size = sum(map(len, pieces))
        head = publish_head(topic.encode(), size)
        with self._unsent_lock:
            if self._unsent_now() + size > UNSENT_MAX_BYTES:
                return False
            self._outgoing.append((head, *pieces))
        self._flush()
        return True

    def _unsent_now(self) -> int:
        while self._unsent and self._unsent[0][0].is_published():
            self._unsent_bytes -= self._unsent.popleft()[1]
        return self._unsent_bytes + self._outgoing.waiting_bytes

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> mqtt.MQTTMessageInfo | None:
        """Queues a message by paho, which keeps it until the broker has acknowledged it.

        Returns:
            paho's handle, or ``None`` if too much waits already.
        """
        with self._unsent_lock:
            if self._unsent_now() + len(payload) > UNSENT_MAX_BYTES:
                return None
            info = self._paho.publish(topic, payload, qos=qos, retain=retain)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return None
            self._unsent.append((info, len(payload)))
            self._unsent_bytes += len(payload)
        self._flush()
        return info

    def disconnect(self) -> None:
        """Sends DISCONNECT, so that the broker discards the last will."""
        self._leaving.set()
        self._paho.disconnect()
        self._wake()

    def abort(self) -> None:
        """Ends the connection without DISCONNECT: the broker publishes the last will."""
        self._ending.set()
        self._wake()

    # Callbacks: all run in the network thread.

    def _socket_opened(self, _client: mqtt.Client, _userdata: Any, sock: Any) -> None:
        self._socket = sock
        # Without it Nagle and delayed ACK cost 40 ms a round trip: a TUF refresh took 85 ms instead of 4.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _connected(
        self, _client: mqtt.Client, _userdata: Any, _flags: mqtt.ConnectFlags, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self.error = _refusal(self._config, reason)
        else:
            self._on_open(self)

    def _subscribed(
        self, _client: mqtt.Client, _userdata: Any, mid: int, codes: list[ReasonCode], _properties: Any
    ) -> None:
        self.hand_over(Acknowledged(self, mid, tuple(int(code.value) for code in codes)))

    def _arrived(self, _client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            self._pass_on(message.topic, bytearray(message.payload), retained=message.retain)
        except UnicodeDecodeError as error:
            log.error("a message on a topic that is not UTF-8 was dropped: %s", error)

    def _take(self, packet: bytearray) -> None:
        try:
            topic, payload = split_publish(packet)
        except UnicodeDecodeError as error:
            log.error("a message on a topic that is not UTF-8 was dropped: %s", error)
        else:
            self._pass_on(topic, payload)

    def _pass_on(self, topic: str, payload: bytearray, *, retained: bool = False) -> None:
        if not self._direct(topic, payload):
            self.hand_over(ReceivedMessage(topic, bytes(payload), retained))

    def hand_over(self, event: Event) -> None:
        """Puts an event into the queue; waits while it is full."""
        while not self._ending.is_set() and not self._try_hand_over(event):
            log.warning("handlers are behind by %d messages; the broker is held back", self._events.qsize())

    def _try_hand_over(self, event: Event) -> bool:
        try:
            self._events.put(event, timeout=0.5)
        except queue.Full:
            return False
        return True


def _no_write_callback(_client: mqtt.Client, _userdata: Any, _sock: Any) -> None:
    """Does nothing: publishers call `Connection._flush`, and the network thread checks `want_write`."""


_AUTHENTICATION = ("Bad user name or password", "Not authorized")
"""paho's names for the codes 4 and 5 of CONNACK (MQTT 3.1.1, section 3.2.2.3)."""


def _refusal(config: LinkConfig, reason: ReasonCode) -> BrokerError:
    name = reason.getName()
    if name in _AUTHENTICATION:
        return BrokerError(
            f"{config.url} refused the credentials: {name}",
            expected="a certificate, or a name and password, that the broker knows",
            actual=f"certificate {config.certificate}, username {config.username}",
            action="Enrol the device again, or correct link.certificate, link.key, link.username, link.password_file.",
        )
    return BrokerError(f"{config.url} refused the connection: {name}", action="Look into the broker's log.")
