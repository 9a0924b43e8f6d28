"""Collectives of one group of workers: in one order on all of them, during the backward pass, and counted.

gloo and NCCL match the collectives of a group by the order in which each worker asks for them. Steps that need several
one after another (low rank: first one factor, then the other) would be asked for in an order that depends on the
machine if they were chained by callbacks: torch's PowerSGD hook crashed so with several buckets on gloo. Here one
thread of one group runs them as they were handed in, while autograd goes on with the next bucket.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 calls them so, and warns of the old names
gather_into = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter_into = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True, slots=True)
class HandedBucket:
    """A collective that is done.

    Attributes:
        at_s: Time of its submission, by `time.perf_counter`.
        seconds: Duration, without waiting for those before it.
    """

    at_s: float
    seconds: float


class Exchange:
    """Collectives of all workers.

    Attributes:
        bytes_sent: Payload that this worker has sent, by the algorithm of each collective: a ring's
            ``2 (W - 1) / W`` of the bytes for an all-reduce, and so on. The benchmark compares it with the interface's
            own counter.
    """

    def __init__(self) -> None:
        """Opens a group of its own, so that no other collectives come between; all workers must call this."""
        self._group = dist.new_group()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.bytes_sent = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="exchange")
        self._pending: list[Future[None]] = []
        self._done: list[HandedBucket] = []

    def later(self, job: Callable[[], Tensor], device: torch.device) -> torch.futures.Future[Tensor]:
        """Submits a collective to the thread; the future raises its error.

        Args:
            job: Calls the collectives of this object, and returns what the future gives.
            device: That the job computes on; what was launched there before this call is waited for.
        """
        found: torch.futures.Future[Tensor] = torch.futures.Future()
        ready = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        at_s = time.perf_counter()

        def run() -> None:
            began_s = time.perf_counter()
            try:
                found.set_result(_on_side_stream(job, ready, device))
            except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits
                found.set_exception(error)  # type: ignore[arg-type]  # torch's stub says type
            self._done.append(HandedBucket(at_s, time.perf_counter() - began_s))

        self._pending.append(self._pool.submit(run))
        return found

    def drain(self) -> tuple[HandedBucket, ...]:
        """Waits for all submitted collectives, and returns those since the last call."""
        for each in self._pending:
            each.result()
        self._pending.clear()
        done, self._done = tuple(self._done), []
        return done

    def close(self) -> None:
        """Ends the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sums over the workers in place; every worker gets the same bits."""
        dist.all_reduce(tensor, group=self._group)
        self.bytes_sent += 2 * (self.world - 1) * tensor.nbytes // self.world
        return tensor

    def swap(self, rows: Tensor) -> Tensor:
        """Sends row r to worker r.

        Args:
            rows: ``(W, n)``.

        Returns:
            ``(W, n)``: row r came from worker r.
        """
        found = torch.empty_like(rows)
        dist.all_to_all_single(found, rows, group=self._group)
        self.bytes_sent += (self.world - 1) * rows.nbytes // self.world
        return found

    def gather(self, row: Tensor) -> Tensor:
        """Returns the rows of all workers, ``(W, n)``, of one ``(n,)`` each."""
        found = torch.empty(self.world * row.numel(), dtype=row.dtype, device=row.device)
        gather_into(found, row, group=self._group)
        self.bytes_sent += (self.world - 1) * row.nbytes
        return found.view(self.world, -1)


def _on_side_stream(job: Callable[[], Tensor], ready: Any, device: torch.device) -> Tensor:
    if ready is None:
        return job()
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's stub lacks it
    with torch.cuda.stream(side):
        side.wait_event(ready)
        found = job()
    side.synchronize()
    return found
