"""Local updates: workers train alone, and exchange what has become of their parameters (streaming DiLoCo).

The parameters are divided into fragments. Once in a round each fragment is exchanged, at a step of its own, while
training goes on: a worker sends how far its values are from the common ones, in 4 bits with error feedback; the owner
of a row averages the differences, takes an outer step with Nesterov momentum on its float32 masters, and sends the
update, in 4 bits again. `MERGE_AFTER` steps later every worker moves its values by what the common ones have moved
away from those that it sent. The state of the outer optimiser is divided over the workers: each holds the masters and
the momentum of its rows alone.

Sources: Douillard et al., "DiLoCo", arXiv:2311.08105, and "Streaming DiLoCo", arXiv:2501.18512. Here a worker keeps the
progress that it made during an exchange, in the place of mixing it half and half with the common values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.gradients.codecs import Codec, gather_rows, rows_of, scatter_mean
from lineside_converters.training.distributed.gradients.local import ROUND_STEPS, Local

FRAGMENTS = 4
MERGE_AFTER = 4
"""Steps between an exchange's begin and its merge: so long it may take without anybody waiting."""

OUTER_RATE, OUTER_MOMENTUM = 0.8, 0.5

OnMerge = Callable[[Sequence[nn.Parameter], Sequence[Tensor], int], None]
"""Called with the parameters of a fragment, their common values, and the steps since the last merge."""


class _Fragment:
    """Parameters that are exchanged together.

    Attributes:
        merged_at: Step of the last merge.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], exchange: Exchange, codec: Codec) -> None:
        self.parameters, self._exchange, self._codec = tuple(parameters), exchange, codec
        count = sum(each.numel() for each in parameters)
        self._length = codec.row_length(count, exchange.world)
        device = parameters[0].device
        self.common = torch.zeros(exchange.world * self._length, device=device)
        self._used = self.common[:count]
        self._sent = torch.zeros_like(self._used)
        self._residual = torch.zeros_like(self.common)
        self._momentum = torch.zeros(self._length, device=device)
        self._underway: torch.futures.Future[Tensor] | None = None
        self.merged_at = 0

    def begin(self, step: int) -> None:
        """Takes the parameters, which are the same on all workers, as the common values."""
        self._read(self._used)
        self._master = self._own(self.common).clone()
        self.merged_at = step

    def views(self, flat: Tensor) -> list[Tensor]:
        """Returns a flat tensor's values of each parameter, in its shape and order of memory."""
        parts = torch.split(flat[: len(self._used)], [each.numel() for each in self.parameters])
        return [part.as_strided(p.shape, p.stride()) for part, p in zip(parts, self.parameters, strict=True)]

    def _read(self, into: Tensor) -> None:
        torch._foreach_copy_(self.views(into), [each.detach() for each in self.parameters])

    def _own(self, flat: Tensor) -> Tensor:
        return rows_of(flat, self._exchange.world, self._length)[self._exchange.rank]

    def send(self) -> None:
        """Begins an exchange of the current parameters."""
        self._read(self._sent)
        self._residual[: len(self._used)].add_(self._used).sub_(self._sent)
        self._underway = self._exchange.later(self._outer_step, self.common.device)

    def _outer_step(self) -> Tensor:
        """Returns the new common values; runs in the exchange's thread."""
        codec, length = self._codec, self._length
        mean = scatter_mean(codec, self._exchange, self._residual, length)
        self._momentum.mul_(OUTER_MOMENTUM).add_(mean)
        self._master.sub_(mean.add_(self._momentum, alpha=OUTER_MOMENTUM), alpha=OUTER_RATE)
        update = self._master - self._own(self.common)
        return gather_rows(codec, self._exchange, update, self.common.clone(), length, add=True)

    def merge(self, step: int, *, exact: bool = False) -> int:
        """Moves the parameters by what the common values have moved.

        Args:
            step: Steps of the run so far.
            exact: Whether they haven't changed since they were sent, and become the common values to the bit.

        Returns:
            Steps since the last merge; 0 if nothing is under way.
        """
        if self._underway is None:
            return 0
        self.common = self._underway.wait()
        self._underway, self._used = None, self.common[: len(self._used)]
        values = [each.detach() for each in self.parameters]
        if exact:
            torch._foreach_copy_(values, self.views(self._used))
        else:
            torch._foreach_add_(values, self.views(torch.sub(self._used, self._sent, out=self._sent)))
        since, self.merged_at = step - self.merged_at, step
        return since

    def state(self) -> dict[str, Tensor]:
        """Returns this worker's part of the outer optimiser, and what rounding has left."""
        of = {"momentum": self._momentum, "master": self._master, "residual": self._residual}
        return {name: each.cpu().clone() for name, each in of.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` returned."""
        self._momentum.copy_(state["momentum"])
        self._master.copy_(state["master"])
        self._residual.copy_(state["residual"])


class LocalUpdates:
    """Exchange of parameters between workers that train alone.

    Attributes:
        waited_s: Time that the training thread has waited for exchanges, all together.
        began_at: Step at which the workers began to train alone; ``None`` before.
    """

    def __init__(self, exchange: Exchange, parameters: Sequence[nn.Parameter], on_merge: OnMerge) -> None:
        """Divides the parameters into fragments.

        Args:
            parameters: Trained ones, the same on all workers when `begin` is called.
            on_merge: Called after each merge.
        """
        self._exchange, self._on_merge = exchange, on_merge
        self._fragments = [_Fragment(each, exchange, Local.codec) for each in _divided(parameters)]
        self.waited_s = 0.0
        self.began_at: int | None = None
        self._finished_at = -1

    def begin(self, step: int) -> None:
        """Begins to train alone."""
        self.began_at = step
        for each in self._fragments:
            each.begin(step)

    def step_ended(self, step: int) -> None:
        """Starts and merges the exchanges that are due after a step.

        Args:
            step: Steps of the run so far.
        """
        if self.began_at is None:
            return
        for number, each in enumerate(self._fragments):
            phase = (step - self.began_at - number * ROUND_STEPS // len(self._fragments)) % ROUND_STEPS
            if phase == MERGE_AFTER:
                self._merge(each, step)
            if phase == 0:
                each.send()

    def round_ended(self, step: int) -> bool:
        """Returns whether all fragments have been exchanged since this was true before, and none is under way."""
        return self.began_at is not None and (step - self.began_at) % ROUND_STEPS == ROUND_STEPS - 1

    def settle(self, step: int) -> None:
        """Merges the exchanges in flight."""
        for each in self._fragments:
            self._merge(each, step)

    def common(self) -> dict[int, Tensor]:
        """Returns the common values of each parameter by its ``id``."""
        return {
            id(parameter): values
            for each in self._fragments
            for parameter, values in zip(each.parameters, each.views(each.common), strict=True)
        }

    def finish(self, step: int) -> None:
        """Merges everything now, so that all workers have the same values."""
        if self.began_at is None or self._finished_at == step:
            return
        self.settle(step)
        for each in self._fragments:
            each.send()
        for each in self._fragments:
            self._merge(each, step, exact=True)
        self._finished_at = step

    def _merge(self, fragment: _Fragment, step: int, *, exact: bool = False) -> None:
        began_s = time.perf_counter()
        since = fragment.merge(step, exact=exact)
        self.waited_s += time.perf_counter() - began_s
        self._exchange.drain()
        if since:
            self._on_merge(fragment.parameters, fragment.views(fragment.common), since)

    def state(self) -> dict[str, Any]:
        """Returns what a worker's checkpoint keeps, after `finish` or `settle`."""
        return {"began_at": self.began_at, "fragments": [each.state() for each in self._fragments]}

    def restore(self, state: dict[str, Any], step: int) -> None:
        """Takes over what `state` returned, for the same number of workers."""
        self.begin(step)
        self.began_at = state["began_at"]
        for each, kept in zip(self._fragments, state["fragments"], strict=True):
            each.restore(kept)


def _divided(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Returns the parameters in fragments of about the same size, in their order."""
    total, seen = sum(each.numel() for each in parameters), 0
    found: list[list[nn.Parameter]] = [[] for _ in range(FRAGMENTS)]
    for each in parameters:
        found[min(FRAGMENTS - 1, seen * FRAGMENTS // total)].append(each)
        seen += each.numel()
    return [each for each in found if each]
