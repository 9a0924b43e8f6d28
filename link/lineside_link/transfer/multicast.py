"""The device's side of a multicast: receive chunks, and request the gaps afterwards.

A device subscribes to the chunks of a target before it requests the multicast, so that it misses none. The hub decides
by the number of requests whether it multicasts.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterator

from lineside_link.client.client import LinkClient
from lineside_link.messages import Multicast, decode
from lineside_link.topics import Topics
from lineside_runtime.bundle import CHUNK_BYTES

log = logging.getLogger("lineside.link")

END = "end"
"""In the topic instead of a chunk's hash after all chunks."""

SILENCE_S = 10.0
"""After so long without a chunk the rest is requested: hub or broker may be offline."""

MULTICAST_MIN_BYTES = CHUNK_BYTES // 4
"""A device that needs less requests it directly."""

HEADROOM = 1.5
"""Required ratio of the measured link's rate and the rate of the multicast."""

_WAITING_MAX = 256
_POLL_S = 0.2


class Listener:
    """Receives the multicast chunks of a target, within a ``with`` block.

    Attributes:
        dropped: Chunks that arrived faster than they were written; they are requested later.

    Args:
        target: ``<group>/<name>-<version>.json``.
    """

    def __init__(self, client: LinkClient, topics: Topics, target: str) -> None:
        self.dropped = 0
        self._client = client
        self._topic = topics.chunk(target, "+")
        self._arrived: queue.Queue[tuple[str, bytes]] = queue.Queue(_WAITING_MAX)

    def __enter__(self) -> Listener:
        self._client.subscribe(self._topic, self._take, qos=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.unsubscribe(self._topic)

    def _take(self, topic: str, payload: bytes) -> None:
        try:
            self._arrived.put_nowait((topic.rpartition("/")[2], payload))
        except queue.Full:
            self.dropped += 1

    def chunks(self, sending: Multicast, should_stop: Callable[[], bool]) -> Iterator[tuple[str, bytes]]:
        """Yields name and content of each chunk, until the end of the multicast or `SILENCE_S` without a chunk.

        Args:
            should_stop: Called at least five times a second.
        """
        heard_at_s = time.monotonic()
        while not should_stop():
            try:
                name, body = self._arrived.get(timeout=_POLL_S)
            except queue.Empty:
                if time.monotonic() - heard_at_s > SILENCE_S:
                    log.warning("the multicast ended early: the rest is requested")
                    return
                continue
            heard_at_s = time.monotonic()
            if name != END:
                yield name, body
            elif decode(body, Multicast).id == sending.id:
                return
