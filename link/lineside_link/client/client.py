"""The MQTT client of both ends: stays connected and subscribed.

Threads:

- ``link-<id>`` connects, serves the socket, and waits between attempts. It only queues messages.
- ``link-handlers-<id>`` runs all handlers and `LinkClient.on_connect` hooks, one at a time, in order of arrival. A
  handler may publish and subscribe; it must not wait for another message, which would wait behind it. Long work belongs
  in a thread of its owner.

Publishing without a connection is not queued: QoS 0 is dropped and counted, QoS 1 returns ``False``. A caller that must
deliver keeps its messages on disk and sends them again from a hook.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping

from paho.mqtt.client import MQTTMessageInfo, topic_matches_sub

from lineside_link.client.connection import Acknowledged, Connection, ConnectionOpened, Event, ReceivedMessage
from lineside_link.config import LinkConfig, Now
from lineside_runtime.errors import BrokerError, LinesideError
from lineside_runtime.serving.backoff import Backoff

__all__ = ["Handler", "LinkClient", "LinkConfig"]

log = logging.getLogger("lineside.link")

Handler = Callable[[str, bytes], None]
"""Takes the topic and the payload."""

DirectHandler = Callable[[str, bytearray], None]
"""As `Handler`; the handler owns the payload."""

EVENTS_MAX = 256
"""Messages that may wait for handlers: 16 MiB of chunks."""

STABLE_PAUSES = 4
"""After a connection that lasted for so many pauses, pauses start at the minimum."""

STABLE_S = 3.0
"""After a connection that lasted so long, the pause shrinks."""

REFUSED = 0x80
"""SUBACK's code for a refused subscription (MQTT 3.1.1, section 3.9.3)."""

SUBSCRIBE_AGAIN = Backoff(5.0, 300.0)
"""Time after a refused subscription until it is tried again, on the same connection."""


class LinkClient:
    """A connection to the broker that lives until `close`.

    Args:
        client_id: Name at the broker; unique there, because a second one of the same name kicks the first.
        will: Topic and payload that the broker publishes (QoS 1, retained) if the connection ends without `close`.
        now: Clock for certificates, for a device whose clock may be unset; see `LinkConfig.tls_context`.
    """

    def __init__(
        self, config: LinkConfig, client_id: str, *, will: tuple[str, bytes] | None = None, now: Now | None = None
    ) -> None:
        self.config = config
        self._now = now
        self.client_id = client_id
        self._will = will
        self._lock = threading.RLock()
        self._events: queue.Queue[Event | None] = queue.Queue(EVENTS_MAX)
        self._subscriptions: dict[str, tuple[Handler, int]] = {}
        self._for_retained: dict[str, Handler] = {}
        self._direct: dict[str, DirectHandler] = {}
        self._hooks: list[Callable[[], None]] = []
        self._socket_hooks: list[Callable[[], None]] = []
        self._counters: collections.Counter[str] = collections.Counter()
        self._connection: Connection | None = None
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._failed = threading.Event()
        self._last_error: LinesideError | None = None
        self._refusals = 0
        self._subscribe_again_s = math.inf
        self._network = threading.Thread(target=self._keep_connected, name=f"link-{client_id}", daemon=True)
        self._dispatcher = threading.Thread(target=self._dispatch, name=f"link-handlers-{client_id}", daemon=True)

    def start(self) -> None:
        """Connects in the background; returns at once.

        Raises:
            ConfigError: A certificate, key or password file cannot be read.
        """
        self._context = self.config.tls_context(now=self._now)
        self.config.password()
        if not self.config.tls and not self.config.loopback:
            log.warning("%s is not encrypted: anybody on the way can read and forge messages", self.config.url)
        self._dispatcher.start()
        self._network.start()

    def use(self, config: LinkConfig) -> None:
        """Uses another configuration, such as a renewed certificate, from the next connection on.

        Raises:
            ConfigError: A certificate or key cannot be read; the old configuration stays.
        """
        context = config.tls_context(now=self._now)
        with self._lock:
            self.config, self._context = config, context

    def subscribe(self, topic: str, handler: Handler, qos: int = 1, *, retained: Handler | None = None) -> None:
        """Calls ``handler`` for every message on ``topic``, on this connection and all later ones.

        Args:
            topic: Filter, with ``+`` and ``#``. A second call with the same filter replaces the handler.
            handler: Runs in the handlers' thread. A `LinesideError` out of it is logged and counted.
            retained: Called instead for retained messages from before the connection.
        """
        with self._lock:
            self._subscriptions[topic] = (handler, qos)
            if retained is not None:
                self._for_retained[topic] = retained
            if self._connection is not None:
                self._connection.subscribe([(topic, qos)])

    def on_connect(self, hook: Callable[[], None]) -> None:
        """Calls ``hook`` in the handlers' thread on each connection, once all subscriptions are answered.

        If there is a connection already, it runs from the next one on.
        """
        with self._lock:
            self._hooks.append(hook)

    def subscribe_direct(self, topic: str, handler: DirectHandler) -> None:
        """As `subscribe` with QoS 0, for thousands of chunks: ``handler`` runs in the network thread.

        Args:
            topic: Without wildcards.
            handler: Must return at once, and use a bounded queue of its own.
        """
        with self._lock:
            self._direct[topic] = handler
        self.subscribe(topic, lambda name, payload: handler(name, bytearray(payload)), qos=0)

    def on_socket_open(self, hook: Callable[[], None]) -> None:
        """Calls ``hook`` in the network thread on each connection as soon as `ask` works.

        Args:
            hook: Must return at once and not raise.
        """
        with self._lock:
            self._socket_hooks.append(hook)

    def ask(self, topic: str, payload: bytes) -> bool:
        """Sends a request (QoS 0) whose answer comes on a subscribed topic; returns whether it was queued.

        Unlike `publish` it does not wait until the broker has accepted connection and subscriptions: the broker reads
        them before the request. If it refuses them, the request is lost, so the caller must be able to repeat it.
        """
        return self._send(topic, payload, early=True)

    @property
    def can_request(self) -> bool:
        """Whether `ask` has a connection, accepted or not yet."""
        with self._lock:
            return self._connection is not None

    def unsubscribe(self, topic: str) -> None:
        """Ends a subscription, on this connection and all later ones.

        Args:
            topic: As it was given to `subscribe`.
        """
        with self._lock:
            if self._subscriptions.pop(topic, None) is not None and self._connection is not None:
                self._connection.refused.pop(topic, None)
                self._connection.unsubscribe(topic)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Hands a message to the connection.

        Returns:
            Whether it was queued, which is no proof of delivery: a broker may lose what it acknowledged. ``False``
            means that there is no connection or that 16 MiB wait already; the message is dropped.
        """
        if qos == 0 and not retain:
            return self._send(topic, payload)
        return self._publish(topic, payload, qos=qos, retain=retain) is not None

    def send(self, topic: str, *pieces: bytes) -> bool:
        """As `publish` with QoS 0, for a payload in several pieces, which are not copied.

        Args:
            pieces: The payload in order; must not change any more.

        Returns:
            As `publish`.
        """
        return self._send(topic, *pieces)

    def wait_connected(self, timeout_s: float) -> bool:
        """Waits until the broker has answered all subscriptions; returns whether it has."""
        return self._ready.wait(timeout_s)

    @property
    def connected(self) -> bool:
        """Whether there is a connection and all subscriptions are answered."""
        return self._ready.is_set()

    @property
    def failed(self) -> bool:
        """Whether a bug has ended the client; the process must be restarted."""
        return self._failed.is_set()

    @property
    def last_error(self) -> LinesideError | None:
        """Why the last attempt failed or the last connection ended; ``None`` once connected."""
        with self._lock:
            return self._last_error

    @property
    def counters(self) -> Mapping[str, int]:
        """Counts since the start.

        ``connects``, ``disconnects``, ``connect_failures``, ``published``, ``published_bytes``, ``not_sent``,
        ``received``, ``received_bytes``, ``unhandled``, ``handler_errors``, ``subscriptions_refused``.
        """
        with self._lock:
            return dict(self._counters)

    def reconnect(self) -> None:
        """Disconnects and connects again, after the usual pause."""
        with self._lock:
            connection = self._connection
        if connection is not None:
            connection.disconnect()

    def close(self, *, last: tuple[str, bytes] | None = None, timeout_s: float = 3.0) -> None:
        """Disconnects for good; a repeat changes nothing.

        Args:
            last: Topic and payload that are published (QoS 1, retained) and acknowledged before DISCONNECT. The broker
                then discards the last will.
            timeout_s: How long to wait for the acknowledgement and for the threads.
        """
        deadline = time.monotonic() + timeout_s
        if last is not None:
            self._publish_last(last, timeout_s)
        self._end(deadline, disconnect=True)

    def vanish(self) -> None:
        """Ends the connection for good without DISCONNECT, as a power cut does: the broker publishes the last will."""
        self._end(time.monotonic() + 3.0, disconnect=False)

    def _end(self, deadline: float, *, disconnect: bool) -> None:
        self._closing.set()
        with self._lock:
            connection = self._connection
        if connection is not None and disconnect:
            connection.disconnect()
            self._join(self._network, deadline)
        if connection is not None:
            connection.abort()
        self._join(self._network, deadline)
        self._put_end(deadline)
        self._join(self._dispatcher, deadline)
        self._ready.clear()

    # Sending.

    def _send(self, topic: str, *pieces: bytes, early: bool = False) -> bool:
        with self._lock:
            connection = self._connection if early or self._ready.is_set() else None
            sent = connection is not None and connection.send(topic, *pieces)
            self._count_sent(topic, sum(map(len, pieces)) if sent else None)
        return sent

    def _publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> MQTTMessageInfo | None:
        with self._lock:
            info = None
            if self._connection is not None and self._ready.is_set():
                info = self._connection.publish(topic, payload, qos=qos, retain=retain)
            self._count_sent(topic, None if info is None else len(payload))
        return info

    def _count_sent(self, topic: str, size: int | None) -> None:
        if size is None:
            self._counters["not_sent"] += 1
            log.debug("not sent, no connection or too much unsent: %s", topic)
        else:
            self._counters["published"] += 1
            self._counters["published_bytes"] += size

    def _publish_last(self, last: tuple[str, bytes], timeout_s: float) -> None:
        info = self._publish(last[0], last[1], qos=1, retain=True)
        if info is None:
            log.warning("the last message on %s was not sent: no connection", last[0])
            return
        try:
            info.wait_for_publish(timeout_s)
        except (RuntimeError, ValueError) as error:
            log.warning("the last message on %s was not sent: %s", last[0], error)

    @staticmethod
    def _join(thread: threading.Thread, deadline: float) -> None:
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(max(0.1, deadline - time.monotonic()))

    def _put_end(self, deadline: float) -> None:
        try:
            self._events.put(None, timeout=max(0.1, deadline - time.monotonic()))
        except queue.Full:
            log.error("handlers are stuck: %d messages are left unhandled", self._events.qsize())

    # The network thread.

    def _keep_connected(self) -> None:
        try:
            self._reconnect_loop()
        finally:
            if not self._closing.is_set():
                self._fail("the network thread")

    def _reconnect_loop(self) -> None:
        pause_s = self.config.reconnect_min_s
        while not self._closing.is_set():
            started = time.monotonic()
            opened = self._run_once()
            if self._closing.is_set():
                return
            pause_s = self._next_pause_s(pause_s, time.monotonic() - started if opened else 0.0)
            self._closing.wait(random.uniform(pause_s / 2, pause_s))
            pause_s = min(pause_s * 2, self.config.reconnect_max_s)

    def _next_pause_s(self, pause_s: float, uptime_s: float) -> float:
        """Returns the pause after a connection, by its duration.

        A broker that accepts and then disconnects (a duplicate client id, the ACL) must not be flooded, and a link that
        breaks every few seconds must not spend most of its time in pauses. Two clients of one id disconnect each other
        after the other's pause, so a connection is stable only if it lasted for several pauses.
        """
        if uptime_s >= STABLE_PAUSES * pause_s:
            return self.config.reconnect_min_s
        return max(self.config.reconnect_min_s, pause_s / 4) if uptime_s >= STABLE_S else pause_s

    def _run_once(self) -> bool:
        """Serves one connection; returns whether the broker accepted it."""
        connection = Connection(
            self.config,
            self.client_id,
            context=self._context,
            will=self._will,
            events=self._events,
            direct=self._take_direct,
            on_socket=self._on_socket_open,
            on_open=self._on_open,
            now=self._now,
        )
        connection.run()
        with self._lock:
            had_opened = connection.accepted
            self._ready.clear()
            self._connection = None
            self._counters["disconnects" if had_opened else "connect_failures"] += 1
            if connection.error is None:
                return had_opened
            changed = str(connection.error) != str(self._last_error)
            self._last_error = connection.error
        log.log(logging.WARNING if changed else logging.DEBUG, "%s", connection.error)
        return had_opened

    def _on_socket_open(self, connection: Connection) -> None:
        with self._lock:
            self._connection = connection
            filters = [(topic, qos) for topic, (_, qos) in self._subscriptions.items()]
            if filters:
                connection.subscribe(filters)
            hooks = list(self._socket_hooks)
        for hook in hooks:
            hook()

    def _on_open(self, connection: Connection) -> None:
        with self._lock:
            self._counters["connects"] += 1
            connection.accepted = True
            subscribing = bool(connection.subscribing)
        if not subscribing:
            connection.hand_over(ConnectionOpened(connection))

    def _take_direct(self, topic: str, payload: bytearray) -> bool:
        handler = self._direct.get(topic)
        if handler is None:
            return False
        with self._lock:
            self._counters["received"] += 1
            self._counters["received_bytes"] += len(payload)
        self._guard(handler, topic, payload)
        return True

    # The handlers' thread.

    def _dispatch(self) -> None:
        try:
            while (event := self._next_event()) is not None:
                self._handle(event)
        finally:
            # Only a bug gets here before `close`. Without handlers the client would look alive but not react, so
            # the connection is broken and the broker publishes the last will.
            if not self._closing.is_set():
                self._fail("a handler")

    def _next_event(self) -> Event | None:
        """Waits for an event; meanwhile subscribes again to what the broker refused."""
        while True:
            left_s = self._subscribe_again_s - time.monotonic()
            if left_s <= 0:
                self._subscribe_again()
                continue
            with contextlib.suppress(queue.Empty):
                return self._events.get(timeout=None if left_s == math.inf else left_s)

    def _subscribe_again(self) -> None:
        self._subscribe_again_s = math.inf
        with self._lock:
            connection = self._connection
            if connection is not None and connection.refused:
                connection.subscribe(list(connection.refused.items()))

    def _fail(self, what: str) -> None:
        self._failed.set()
        self._closing.set()
        with self._lock:
            self._ready.clear()
            self._last_error = BrokerError(
                f"{what} of {self.client_id} failed with a defect; the link is down", action="Restart the process."
            )
            log.critical("%s", self._last_error)
            if self._connection is not None:
                self._connection.abort()

    def _handle(self, event: Event) -> None:
        if isinstance(event, ReceivedMessage):
            self._deliver(event)
        elif isinstance(event, ConnectionOpened):
            self._become_ready(event.connection)
        else:
            self._acknowledge(event)

    def _deliver(self, message: ReceivedMessage) -> None:
        with self._lock:
            self._counters["received"] += 1
            self._counters["received_bytes"] += len(message.payload)
            instead = self._for_retained if message.retained else {}
            handlers = [
                instead.get(topic, handler)
                for topic, (handler, _) in self._subscriptions.items()
                if topic_matches_sub(topic, message.topic)
            ]
            self._counters["unhandled"] += not handlers
        for handler in handlers:
            self._guard(handler, message.topic, message.payload)

    def _guard(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            call(*arguments)
        except LinesideError as error:
            with self._lock:
                self._counters["handler_errors"] += 1
            log.error("%s: %s", arguments[0] if arguments else "after connecting", error)

    def _acknowledge(self, event: Acknowledged) -> None:
        connection = event.connection
        with self._lock:
            filters = connection.subscribing.pop(event.mid, ())
            answers = dict(zip(filters, event.codes, strict=False))
            refused = {topic for topic, code in answers.items() if code >= REFUSED and topic in self._subscriptions}
            news = refused - connection.refused.keys()
            granted = connection.refused.keys() & (answers.keys() - refused)
            connection.refused |= {topic: self._subscriptions[topic][1] for topic in refused}
            for topic in granted:
                del connection.refused[topic]
            self._counters["subscriptions_refused"] += len(news)
            complete = not connection.subscribing
            self._refusals = 0 if not connection.refused else self._refusals + bool(refused)
            if refused and connection is self._connection:
                self._subscribe_again_s = time.monotonic() + SUBSCRIBE_AGAIN.after(self._refusals)
            if granted and not connection.refused and connection is self._connection:
                self._last_error = None
        for topic in sorted(news):
            self._refused(topic)
        for topic in sorted(granted):
            log.info("%s takes the subscription to %s again", self.config.url, topic)
        if complete:
            self._become_ready(connection)

    def _refused(self, topic: str) -> None:
        error = BrokerError(
            f"{self.config.url} refused the subscription to {topic}",
            action=f"Allow {self.client_id} to read it in the broker's access list (ACL); it is tried again by itself.",
        )
        with self._lock:
            self._last_error = error
        log.error("%s", error)

    def _become_ready(self, connection: Connection) -> None:
        with self._lock:
            if self._connection is not connection or self._ready.is_set():
                return
            if not connection.refused:
                self._last_error = None
            self._ready.set()
            hooks = list(self._hooks)
        log.info("%s connected to %s", self.client_id, self.config.url)
        for hook in hooks:
            self._guard(hook)
