"""The device's end of chunks that are sent to all: who takes part listens, and asks for the gaps afterwards.

A device subscribes to the target's chunks before it says that it wants them, so that nothing that is sent then passes
it by. Whether anything is sent at all the hub decides, by how many say so at about the same time.
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
"""Stands in the topic in place of a chunk's hash when all have been sent."""

SILENCE_S = 10.0
"""After so long without a chunk the rest is asked for: the hub or the broker has gone away."""

MULTICAST_MIN_BYTES = CHUNK_BYTES // 4
"""Who lacks less than this just asks for it."""

HEADROOM = 1.5
"""A link that was measured takes part only if it is so much faster than the hub sends."""

_WAITING_MAX = 256
_POLL_S = 0.2


class Listener:
    """Takes a target's chunks as they are sent to all, within a ``with`` block.

    Attributes:
        dropped: Chunks that came faster than they were written; they are asked for later.

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
        """Yields name and content of each chunk until all are sent, or nothing comes any more.

        Args:
            should_stop: Looked at at least five times a second.
        """
        heard_at_s = time.monotonic()
        while not should_stop():
            try:
                name, body = self._arrived.get(timeout=_POLL_S)
            except queue.Empty:
                if time.monotonic() - heard_at_s > SILENCE_S:
                    log.warning("nothing more is sent to all: the rest is asked for")
                    return
                continue
            heard_at_s = time.monotonic()
            if name != END:
                yield name, body
            elif decode(body, Multicast).id == sending.id:
                return
