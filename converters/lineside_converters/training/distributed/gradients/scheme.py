"""Base of the schemes: a communication hook of torch's DDP that averages gradients."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.gradients.codecs import Codec, PlainCodec, scatter_mean

_FLOAT32 = PlainCodec(torch.float32)


@dataclass(frozen=True, slots=True)
class GradientBucket:
    """Gradients that are averaged together.

    Attributes:
        flat: ``(n,) float32``: theirs one after another, in the order of memory; changed in place.
    """

    flat: Tensor
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]


class Residuals:
    """Compression errors so far, by parameter, which the next step adds (error feedback).

    DDP puts parameters into other buckets after its first step, and again after a resume: what is kept follows the
    parameter and not the bucket.
    """

    def __init__(self) -> None:
        self._flats: dict[tuple[str, ...], Tensor] = {}
        self._by_name: dict[str, Tensor] = {}

    def of(self, bundled: GradientBucket) -> Tensor:
        """Returns the residuals of these gradients, ``(n,) float32``, to be changed in place."""
        flat = self._flats.get(bundled.names)
        if flat is None:
            flat = torch.zeros_like(bundled.flat)
            for name, part in zip(bundled.names, parts_of(flat, bundled.shapes), strict=True):
                if name in self._by_name:
                    part.copy_(self._by_name[name])
                self._by_name[name] = part
            moved = set(bundled.names)
            self._flats = {names: kept for names, kept in self._flats.items() if moved.isdisjoint(names)}
            self._flats[bundled.names] = flat
        return flat

    def state(self) -> dict[str, Tensor]:
        """Returns copies by parameter, each ``(n,) float32``."""
        return {name: part.detach().cpu().clone() for name, part in self._by_name.items()}

    def restore(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Takes over what `state` returned."""
        self._flats = {}
        self._by_name = {name: part.to(device) for name, part in state.items()}


def parts_of(flat: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """Returns views of a flat tensor, one a shape."""
    return torch.split(flat, [shape.numel() for shape in shapes])


class GradientScheme(abc.ABC):
    """One way to average gradients over the workers.

    Attributes:
        name: What the command line calls it.
        lossless: Whether the average is that of float32.
        local: Whether workers train alone after the warm-up, and gradients are not averaged at all.
        exchange: The collectives, with their count of bytes.
        codec: Encoding of the updates of parameters, where each worker makes those of its share alone.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool] = False
    local: ClassVar[bool] = False
    codec: Codec = _FLOAT32

    def __init__(self, exchange: Exchange, *, warm_up_steps: int = 0) -> None:
        """Takes the collectives.

        Args:
            warm_up_steps: Steps of a run that are averaged in float32: compression has learnt nothing yet then, and
                the gradients change most.
        """
        self.exchange = exchange
        self._warm_up_steps, self._step = warm_up_steps, 0
        self._names: dict[int, str] = {}

    def begin(self, step: int) -> None:
        """Begins a step."""
        self._step = step

    @property
    def warming_up(self) -> bool:
        """Whether gradients are still averaged in float32."""
        return self._step < self._warm_up_steps

    def watch(self, model: nn.Module) -> None:
        """Remembers the names of a model's parameters."""
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}

    def hook(self, state: object, bucket: Any) -> torch.futures.Future[Tensor]:
        """Averages a bucket during the backward pass: `torch.nn.parallel.DistributedDataParallel` calls this."""
        del state
        parameters = bucket.parameters()
        bundled = GradientBucket(
            bucket.buffer(),
            tuple(self._names[id(each)] for each in parameters),
            tuple(each.shape for each in parameters),
        )
        work = self._plain if self.warming_up else self.average
        return self.exchange.later(lambda: work(bundled), bundled.flat.device)

    def _plain(self, bundled: GradientBucket) -> Tensor:
        return self.exchange.sum(bundled.flat).div_(self.exchange.world)

    def scattered(self, bundled: GradientBucket, length: int) -> Tensor:
        """Returns the mean of this worker's row, by `scatter` or, in the warm-up, in float32."""
        if self.warming_up:
            return scatter_mean(_FLOAT32, self.exchange, bundled.flat, length)
        return self.scatter(bundled, length)

    def scatter(self, bundled: GradientBucket, length: int) -> Tensor:
        """Averages for those who own the values.

        Args:
            length: Of each worker's row of them, with padding.

        Returns:
            ``(length,) float32``: the mean over the workers of this worker's row.
        """
        return scatter_mean(self.codec, self.exchange, bundled.flat, length)

    @property
    def update_codec(self) -> Codec:
        """Encoding of the updates of this step."""
        return _FLOAT32 if self.warming_up else self.codec

    @abc.abstractmethod
    def average(self, bundled: GradientBucket) -> Tensor:
        """Returns the mean over the workers, ``(n,) float32``; runs in the exchange's thread."""

    @classmethod
    @abc.abstractmethod
    def bytes_of(cls, shapes: Sequence[torch.Size], world: int) -> float:
        """Returns how many bytes a worker sends in a step to average gradients of these shapes."""

    def state(self) -> dict[str, Any]:
        """Returns this worker's part of a checkpoint: tensors and plain values."""
        return {}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:  # noqa: B027  # most keep nothing
        """Takes over what `state` returned."""
