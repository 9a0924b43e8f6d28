"""Parameters and gradients of a network in flat buckets, each divided into a row for every worker.

The parameters become views of their bucket, so that an update of a whole bucket is one of all its parameters. A
bucket's gradients are handed over while autograd still computes those of the others, in one order on all workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lineside_converters.training.distributed.gradients.codecs import rows_of
from lineside_converters.training.distributed.gradients.scheme import GradientBucket

BUCKET_VALUES = 2_000_000
"""Values of a bucket: fewer than in torch's DDP, because the last bucket's exchange is hidden by nothing."""

_UNITS = (8192, 1024)  # the blocks of `BlockCodec`


@dataclass(slots=True)
class FlatBucket:
    """Parameters that travel together.

    Attributes:
        parameters: Theirs; views of ``values``.
        length: Of a worker's row, with padding.
        values: ``(W * length,) float32``, zeros behind the last parameter.
        gradients: As ``values``.
        missing: Gradients that this step has not made yet.
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    length: int
    values: Tensor
    gradients: Tensor
    missing: set[str] = field(default_factory=set)

    @property
    def used(self) -> int:
        """Values without padding."""
        return sum(each.numel() for each in self.parameters)

    def row(self, rank: int) -> Tensor:
        """Returns a worker's row of the values, ``(length,)``."""
        return self.values[rank * self.length : (rank + 1) * self.length]

    def bundled(self) -> GradientBucket:
        """Returns the gradients as the schemes take them."""
        return GradientBucket(self.gradients[: self.used], self.names, tuple(each.shape for each in self.parameters))

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Returns a flat tensor's values of each parameter, in its shape and order of memory."""
        found, first = {}, 0
        for name, each in zip(self.names, self.parameters, strict=True):
            found[name] = flat[first : first + each.numel()].as_strided(each.shape, each.stride())
            first += each.numel()
        return found

    def spans(self, rank: int) -> Iterator[tuple[str, int, int]]:
        """Yields of each parameter in a worker's row its name, begin and end there."""
        first, begin = 0, rank * self.length
        for name, each in zip(self.names, self.parameters, strict=True):
            low, high = max(first, begin), min(first + each.numel(), begin + self.length)
            if low < high:
                yield name, low - begin, high - begin
            first += each.numel()


class FlatParameters:
    """All trained parameters of a network in buckets, the last ones first, as the backward pass makes gradients.

    Attributes:
        buckets: In the order in which they are handed over.
    """

    def __init__(
        self, named: Sequence[tuple[str, nn.Parameter]], world: int, hand_over: Callable[[FlatBucket], None]
    ) -> None:
        """Moves the parameters into buckets.

        Args:
            named: Trained parameters, in the network's order.
            hand_over: Called with each bucket once in a step, when its gradients are there, or at `flush`.
        """
        self._world, self._hand_over = world, hand_over
        self.buckets: list[FlatBucket] = []
        chosen: list[tuple[str, nn.Parameter]] = []
        for name, parameter in reversed(named):
            chosen.append((name, parameter))
            if sum(each.numel() for _, each in chosen) >= BUCKET_VALUES:
                self.buckets.append(self._bucket(chosen))
                chosen = []
        if chosen:
            self.buckets.append(self._bucket(chosen))
        self._next = 0

    def _bucket(self, named: Sequence[tuple[str, nn.Parameter]]) -> FlatBucket:
        names, parameters = zip(*named, strict=True)
        device = parameters[0].device
        length = _row_length(sum(each.numel() for each in parameters), self._world)
        values, gradients = (torch.zeros(self._world * length, device=device) for _ in range(2))
        bucket = FlatBucket(names, parameters, length, values, gradients, set(names))
        views, into = bucket.views(values), bucket.views(gradients)
        for name, parameter in named:
            views[name].copy_(parameter.detach())
            parameter.data = views[name]
            arrived = self._hook(bucket, name, into[name])
            parameter.register_post_accumulate_grad_hook(arrived)  # type: ignore[no-untyped-call]  # torch's stub
        return bucket

    def _hook(self, bucket: FlatBucket, name: str, into: Tensor) -> Callable[[Tensor], None]:
        def arrived(parameter: Tensor) -> None:
            if parameter.grad is not None:
                into.copy_(parameter.grad)
                parameter.grad = None
            bucket.missing.discard(name)
            self._hand_over_ready()

        return arrived

    def _hand_over_ready(self) -> None:
        while self._next < len(self.buckets) and not self.buckets[self._next].missing:
            self._hand_over(self.buckets[self._next])
            self._next += 1

    def flush(self) -> None:
        """Hands over the rest at the end of a backward pass; parameters without a gradient have zeros."""
        for bucket in self.buckets[self._next :]:
            into = bucket.views(bucket.gradients)
            for name in bucket.missing:
                into[name].zero_()
            bucket.missing.clear()
        self._hand_over_ready()
        self._next = 0
        for bucket in self.buckets:
            bucket.missing.update(bucket.names)

    def rows(self, flat: Tensor) -> list[Tensor]:
        """Returns a flat tensor's row of each worker."""
        return rows_of(flat, self._world, flat.numel() // self._world)


def _row_length(values: int, world: int) -> int:
    """Returns the length of a row that the blocks of every codec divide."""
    share = -(-values // world)
    unit = next((each for each in _UNITS if share > each), 2)
    return -(-share // unit) * unit
