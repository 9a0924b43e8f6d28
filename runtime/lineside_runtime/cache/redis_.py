"""Cache store in Redis, one server or a cluster, that several hosts share.

Invariants:

- A look-up uses a connection that is there already, and ends when one read of it takes longer than the timeout.
  Resolving names, connecting and signing in, which nothing bounds well, is done by the level's own thread.
- A node that hangs or can't be reached is left alone, and the others of its cluster go on.
- A connection on which anything went wrong is closed: an answer that comes late can't be taken for the next one.

The commands go straight over ``redis.Connection``. redis-py's ``Redis.get`` takes twice as long (pool and tracing), and
its ``RedisCluster`` tries a dead node again and re-reads the cluster's map inside the call, which takes seconds.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ClusterDownError, MovedError
from redis.retry import Retry

from lineside_runtime.cache.config import VALUE_BYTES_MAX
from lineside_runtime.cache.key import VERSION
from lineside_runtime.cache.level import CacheStore
from lineside_runtime.errors import ConfigError
from lineside_runtime.serving.backoff import Backoff

PREFIX = f"lineside:cache:{VERSION}:".encode()
CONNECTIONS = 4
"""To each node at first: one a core of a small board, so that as many threads find one."""

_READ_BYTES = 1 << 18

log = logging.getLogger("lineside.cache")


class NoConnectionError(redis.RedisError):
    """No connection is idle at this moment; one more is being made."""


class RedisStore(CacheStore):
    """One server, or a cluster of which some nodes are named."""

    name = "redis"
    faults = (redis.RedisError, OSError)
    value_bytes_max = VALUE_BYTES_MAX

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout_s: float,
        ttl_s: float | None,
        pauses: Backoff | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connects to nothing yet.

        Args:
            urls: Of one server, or of some nodes of one cluster.
            timeout_s: Of one read from a node.
            ttl_s: Age at which a result is forgotten; ``None`` leaves that to the server's ``maxmemory-policy``.
            pauses: Before a node that failed is tried again.
            clock_s: Seconds of a clock that never goes back.

        Raises:
            ConfigError: An address can't be read.
        """
        self._seeds = [_seed(url, timeout_s) for url in urls]
        self._expiry = () if ttl_s is None else ("PX", max(1, round(ttl_s * 1000)))
        self._pauses = pauses or Backoff()
        self._clock_s = clock_s
        self._nodes: dict[str, _Node] = {}
        self._slots: list[str] | None = []
        self._moved = False

    def open(self) -> None:
        """Finds the nodes and which of them keeps what, and connects to each.

        Raises:
            ConfigError: Several addresses of servers that are no cluster.
        """
        self.close()
        self._read_map()
        for node in self._nodes.values():
            for _ in range(CONNECTIONS):
                if self._try_again(node):
                    break
        if all(node.failures for node in self._nodes.values()):
            raise redis.ConnectionError("no node answers")

    def read(self, key: bytes) -> bytes | None:
        """Returns the value, or ``None`` if there is none, its node is down, or all its connections are in use."""
        name = PREFIX + key.hex().encode()
        node = self._node(name)
        if node is None or node.failures:
            return None
        try:
            # GETRANGE bounds the size of a foreign value
            [value] = node.ask([("GETRANGE", name, 0, self.value_bytes_max)])
        except NoConnectionError:
            self.wake()
            return None
        except self.faults as error:
            self._note(node, error)
            return None
        if node.wants_more:
            self.wake()
        return value if isinstance(value, bytes) and value else None

    def write(self, values: Sequence[tuple[bytes, bytes]], used: Sequence[bytes]) -> int:
        """Writes to each node in one go; the server itself notes what is used."""
        refused = 0
        commands: dict[_Node, list[tuple[Any, ...]]] = {}
        for key, value in values:
            name = PREFIX + key.hex().encode()
            node = self._node(name)
            if node is None or node.failures:
                refused += 1
            else:
                commands.setdefault(node, []).append(("SET", name, value, *self._expiry))
        return refused + sum(self._set(node, sets) for node, sets in commands.items())

    def _set(self, node: _Node, sets: list[tuple[Any, ...]]) -> int:
        try:
            node.ask_or_connect(sets)
        except self.faults as error:
            self._note(node, error)
            return len(sets)
        return 0

    def tend(self) -> None:
        """Makes connections that are wanted, tries failed nodes again, and reads a changed cluster's map again."""
        now_s = self._clock_s()
        nodes = list(self._nodes.values())
        due = [node for node in nodes if node.failures and node.retry_at_s <= now_s]
        if self._slots is not None and (due or self._moved):
            self._moved = False
            self._read_map()
        for node in self._nodes.values():
            if node in due or (node.wants_more and not node.failures):
                self._try_again(node)

    def refuses_writes_only(self, error: Exception) -> bool:
        """A server without room (``OOM``), or a replica."""
        return isinstance(error, redis.ResponseError)

    def close(self) -> None:
        """Closes all connections."""
        for node in (*self._nodes.values(), *self._seeds):
            node.close()
        self._nodes, self._slots = {}, []

    def _node(self, name: bytes) -> _Node | None:
        if self._slots is None:
            return self._nodes.get("")
        return self._nodes.get(self._slots[key_slot(name)]) if self._slots else None

    def _try_again(self, node: _Node) -> bool:
        """Adds a connection to a node; returns whether that failed."""
        failed = node.failures
        try:
            node.connect()
        except self.faults as error:
            self._leave(node, error)
            return True
        if failed:
            log.warning("cache redis: %s answers again", node.label)
        return False

    def _note(self, node: _Node, error: Exception) -> None:
        """Decides what a failure means; raises it if the whole store is down or refuses."""
        if isinstance(error, MovedError):
            self._moved = True  # the map is old: a miss, and the level's thread reads it again
            self.wake()
        elif isinstance(error, redis.ConnectionError):
            node.close()  # perhaps it was only closed for being idle: connecting again will tell
            node.wants_more = True
            self.wake()
        elif isinstance(error, redis.ResponseError) and not isinstance(error, ClusterDownError):
            if not str(error).startswith("WRONGTYPE"):  # one key that another program has written
                raise error
        else:
            self._leave(node, error)
            return
        self.report(error)

    def _leave(self, node: _Node, error: Exception) -> None:
        """Leaves a node alone for a while; raises if it was the last one."""
        node.fail(self._pauses, self._clock_s())
        if all(other.failures for other in self._nodes.values()):
            raise error
        self.report(error)

    def _read_map(self) -> None:
        last: Exception = redis.ConnectionError("no address")
        for seed in (*(node for node in self._nodes.values() if not node.failures), *self._seeds):
            try:
                shards = seed.shards()
            except self.faults as error:
                last = error
                continue
            if shards is None:
                self._use_single(seed)
            else:
                self._use_cluster(seed, shards)
            return
        raise last

    def _use_single(self, seed: _Node) -> None:
        if len(self._seeds) > 1:
            raise ConfigError(
                "cache.redis",
                expected="one server, or several nodes of one cluster",
                actual=f"{len(self._seeds)} addresses, and {seed.label} belongs to no cluster",
            )
        self._nodes, self._slots = {"": seed}, None

    def _use_cluster(self, seed: _Node, shards: list[_Shard]) -> None:
        """Takes the new map over; nodes that are known already keep their connections and failures."""
        nodes: dict[str, _Node] = {}
        slots = [""] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, host, port in shards:
            name = f"{host}:{port}"
            nodes[name] = nodes.get(name) or self._nodes.get(name) or seed.beside(host, port)
            slots[first : last + 1] = [name] * (last + 1 - first)
        gone = [node for name, node in self._nodes.items() if name not in nodes]
        self._nodes, self._slots = nodes, slots
        for node in gone:
            node.close()


_Shard = tuple[int, int, str, int]


class _Node:
    """One server: its idle connections and its health.

    Attributes:
        label: Its address without the password.
        failures: In a row; 0 while it is well.
        retry_at_s: When it is to be tried again.
        wants_more: Whether all its connections were in use.
    """

    def __init__(self, kind: type[Any], options: dict[str, Any]) -> None:
        self.label = str(options.get("path") or f"{options.get('host')}:{options.get('port')}")
        self.failures = 0
        self.retry_at_s = 0.0
        self.wants_more = False
        self._kind = kind
        self._options = options
        self._idle: deque[Any] = deque()
        self._closed = False
        self._lock = threading.Lock()

    def beside(self, host: str, port: int) -> _Node:
        """Returns another node of the same cluster, with the same password and TLS."""
        return _Node(self._kind, {**self._options, "host": host, "port": port})

    def ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Sends the commands over an idle connection and returns their answers.

        Raises:
            NoConnectionError: None is idle.
            redis.RedisError: The first error among the answers, or the connection's.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            self.wants_more = True
            raise NoConnectionError("all connections are in use") from None
        if not self._idle:
            self.wants_more = True  # so that the next thread finds one
        return self._ask(connection, commands)

    def _ask(self, connection: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
        answers: list[Any] = []
        refused: redis.ResponseError | None = None
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            for _ in commands:
                try:
                    answers.append(connection.read_response())
                except redis.ResponseError as error:  # noqa: PERF203  the other answers must be read as well
                    refused = refused or error
        except (ValueError, IndexError) as error:  # redis-py's parser, of bytes that break the protocol
            connection.disconnect()
            raise redis.InvalidResponse(f"{self.label} does not speak Redis' protocol: {error}") from error
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append(connection)
        if self._closed:  # while this was under way
            self.close()
        if refused is not None:
            raise refused
        return answers

    def connect(self) -> None:
        """Adds a connection on which the server has answered; the node is well then."""
        self._closed = False
        connection = self._kind(**self._options)
        self._ask(connection, [("PING",)])
        self.wants_more = False
        self.failures = 0

    def ask_or_connect(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Like `ask`, and connects if no connection is idle; for the level's own thread."""
        try:
            return self.ask(commands)
        except NoConnectionError:
            self._closed = False
            return self._ask(self._kind(**self._options), commands)

    def shards(self) -> list[_Shard] | None:
        """Returns first and last slot, host and port of each part of the cluster; ``None`` if it is in none."""
        try:
            [ranges] = self.ask_or_connect([("CLUSTER", "SLOTS")])
        except redis.ResponseError as error:
            if "cluster support disabled" in str(error):
                return None
            raise
        own = str(self._options.get("host"))  # the answer leaves a host empty that is the one asked
        try:
            return [_shard(*found, own=own) for found in ranges]
        except (TypeError, ValueError, IndexError) as error:
            raise redis.InvalidResponse(f"{self.label}: CLUSTER SLOTS cannot be read: {error}") from error

    def fail(self, pauses: Backoff, now_s: float) -> None:
        """Notes a failure; several calls that meet the same outage count once."""
        with self._lock:
            if self.failures and now_s < self.retry_at_s:
                return
            self.failures += 1
            pause_s = pauses.after(self.failures)
            self.retry_at_s = now_s + pause_s
        self.close()
        log.warning("cache redis: %s is left alone for %.0f s", self.label, pause_s)

    def close(self) -> None:
        """Closes the idle connections now, and each that is in use when it comes back; `connect` begins anew."""
        self._closed = True
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().disconnect()


def _seed(url: str, timeout_s: float) -> _Node:
    try:
        found: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:
        raise ConfigError("cache.redis", expected="addresses such as redis://host:6379/0") from None
    kind = found.pop("connection_class", redis.Connection)
    if kind is not redis.UnixDomainSocketConnection:
        found = {"host": "localhost", "port": 6379, **found}
    bounds = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_read_size": _READ_BYTES,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    return _Node(kind, {**found, **bounds})


def _shard(first: int, last: int, node: Sequence[Any], *_: object, own: str) -> _Shard:
    if not 0 <= first <= last < REDIS_CLUSTER_HASH_SLOTS:
        raise ValueError(f"slots {first} to {last}")
    return first, last, _text(node[0]) or own, int(node[1])


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
