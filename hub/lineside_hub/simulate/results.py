"""Results of a simulated device, and those of them that the hub has not acknowledged."""

from __future__ import annotations

import collections
import threading
import time

from lineside_link.messages import ResultRow, Results, ResultsAck, decode, encode

PENDING_MAX = 200
"""Rows that may wait for the hub; the line of the device stands still then."""

REJECT_EVERY = 20


class SimulatedResults:
    """An outbox in memory: it is empty after a power cut, as that of a new epoch.

    Attributes:
        made: Results so far.
        acknowledged: How many of them the hub has committed.
    """

    def __init__(self, device: str, epoch: str) -> None:
        self.made = 0
        self.acknowledged = 0
        self._device, self._epoch = device, epoch
        self._pending: collections.deque[ResultRow] = collections.deque()
        self._lock = threading.Lock()

    def inspect(self, count: int, bundle: str) -> bytes:
        """Makes results; returns the message with all that wait for the hub."""
        with self._lock:
            for _ in range(min(count, PENDING_MAX - len(self._pending))):
                self.made += 1
                is_bad = self.made % REJECT_EVERY == 0
                self._pending.append(
                    ResultRow(
                        seq=self.made,
                        part_id=f"{self._device}-{self._epoch[:4]}-{self.made}",
                        source="simulated",
                        sequence=self.made,
                        captured_at_ns=time.time_ns(),
                        verdict="reject" if is_bad else "pass",
                        detections=(("scratch", 0.91, 10.0, 20.0, 30.5, 40.5),) if is_bad else (),
                        bundle=bundle,
                        bundle_sha256="0" * 64,
                        requested_device="cpu",
                        used_device="simulated/cpu:0",
                        latency_ms=4.5,
                        width=640,
                        height=480,
                    )
                )
            return encode(Results(epoch=self._epoch, rows=tuple(self._pending)))

    def take_answer(self, _topic: str, payload: bytes) -> None:
        """Takes the hub's watermark."""
        answer = decode(payload, ResultsAck)
        if answer.epoch != self._epoch:
            return
        with self._lock:
            self.acknowledged = max(self.acknowledged, answer.seq)
            while self._pending and self._pending[0].seq <= answer.seq:
                self._pending.popleft()
