"""A device's end of the link as the hub sees it, without an agent."""

from __future__ import annotations

import threading
import time

import pytest

from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.messages import ResultRow, Results, ResultsAck, decode, encode
from lineside_link.topics import Topics


class ResultsDevice:
    """Sends rows and keeps them until they are acknowledged.

    Args:
        url: Of the broker.
        topics: Of the site.
        group: Whose desired state it hears.
        name: Of the device.
        epoch: Of its database.
    """

    def __init__(self, url: str, topics: Topics, *, group: str, name: str = "cam-01", epoch: str = "e1") -> None:
        self.topics = topics
        self.name = name
        self.epoch = epoch
        self.acked = 0
        self.messages: dict[str, bytes] = {}
        self.link = LinkClient(LinkConfig(url=url, site=topics.site, reconnect_min_s=0.05, reconnect_max_s=0.2), name)
        for topic in (topics.results_ack(name), topics.device_desired(name), topics.group_desired(group)):
            self.link.subscribe(topic, self._take)
        self.link.subscribe(topics.repo_response(name), self._take, qos=0)
        self.link.start()

    def _take(self, topic: str, payload: bytes) -> None:
        self.messages[topic] = payload
        if topic == self.topics.results_ack(self.name):
            ack = decode(payload, ResultsAck)
            if ack.epoch == self.epoch:
                self.acked = max(self.acked, ack.seq)

    def rows(self, first: int, last: int) -> tuple[ResultRow, ...]:
        return tuple(
            ResultRow(seq=seq, part_id=f"part-{seq}", sequence=seq, captured_at_ns=seq, verdict="pass")
            for seq in range(first, last + 1)
        )

    def send(self, first: int, last: int) -> bool:
        message = Results(epoch=self.epoch, rows=self.rows(first, last))
        return self.link.publish(self.topics.results(self.name), encode(message))

    def deliver(self, total: int, *, batch: int = 20, window: int = 200, timeout_s: float = 60.0) -> None:
        """Sends rows 1 to ``total`` and goes back to the watermark when nothing moves, as the agent does."""
        deadline = time.monotonic() + timeout_s
        sent, before, moved = self.acked, self.acked, time.monotonic()
        pause = threading.Event()
        while self.acked < total:
            if time.monotonic() > deadline:
                pytest.fail(f"{self.acked} of {total} rows acknowledged in {timeout_s} s")
            if self.acked != before:
                before, moved = self.acked, time.monotonic()
            if time.monotonic() - moved > 1.0:
                sent, moved = self.acked, time.monotonic()
            sent = max(sent, self.acked)
            last = min(sent + batch, total, self.acked + window)
            if last > sent and self.send(sent + 1, last):
                sent = last
            pause.wait(0.005)
