"""FSDP2 with compressed collectives: every worker holds a share of parameters, gradients and optimiser state.

torch shards (`fully_shard`); of its two collectives a module's parameters come as bfloat16 before they are used, and
its gradients go as bytes with error feedback to whoever keeps them. The shares that are kept and updated are float32.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, ReduceScatter
from torch.distributed.tensor import DTensor, distribute_tensor

from lineside_converters.training.distributed.exchange import Exchange, gather_into, reduce_scatter_into
from lineside_converters.training.distributed.gradients.codecs import BlockCodec, PlainCodec, scatter_rows

_FLOAT32, _INT8 = PlainCodec(torch.float32), BlockCodec(8)
GROUP_VALUES = 100_000
"""A child with so many parameters travels by itself; the rest with the root."""


class CollectiveMeter:
    """Bytes and time of FSDP2's collectives.

    Attributes:
        bytes_sent: Payload of this worker.
        waited_s: Time that the training thread waited for them.
    """

    def __init__(self) -> None:
        self.bytes_sent = 0.0
        self.waited_s = 0.0

    @contextlib.contextmanager
    def collective(self, sent_bytes: int) -> Iterator[None]:
        """Measures a collective that the training thread waits for.

        Args:
            sent_bytes: Bytes that this worker sends in it.
        """
        began_s = time.perf_counter()
        yield
        self.bytes_sent += sent_bytes
        self.waited_s += time.perf_counter() - began_s


class _Allocates:
    """Allocates as torch's own collectives do."""

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _Counts(_Allocates):
    """Counts its bytes and the time that the training thread waits for it."""

    def __init__(self, counted: CollectiveMeter) -> None:
        self._counted = counted


class PlainGather(_Counts, AllGather):
    """Parameters in float32."""

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        """Gathers."""
        with self._counted.collective((group.size() - 1) * input_tensor.nbytes):
            work: dist.Work | None = gather_into(output_tensor, input_tensor, group=group, async_op=async_op)
        return work


class HalfGather(_Counts, AllGather):
    """Parameters rounded to bfloat16 on their way; the network computes in float32 with them."""

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        """Gathers; the worker's own share is rounded too, so that all workers compute with the same values."""
        del async_op  # the values are there when this returns
        with self._counted.collective((group.size() - 1) * input_tensor.numel() * torch.bfloat16.itemsize):
            half = input_tensor.to(torch.bfloat16)
            found = torch.empty(output_tensor.shape, dtype=torch.bfloat16, device=output_tensor.device)
            gather_into(found, half, group=group)
            output_tensor.copy_(found)
        return None


class PlainReduceScatter(_Counts, ReduceScatter):
    """Gradients in float32, as torch sends them."""

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> dist.Work | None:
        """Reduces. gloo has no reduce-scatter: torch gives it an all-reduce, of twice the bytes."""
        twice = 2 if input_tensor.device.type == "cpu" else 1
        with self._counted.collective(twice * (group.size() - 1) * output_tensor.nbytes):
            work: dist.Work | None = reduce_scatter_into(
                output_tensor, input_tensor, op=op, group=group, async_op=async_op
            )
        return work


class Int8ReduceScatter(_Allocates, ReduceScatter):
    """Gradients in a byte a value, with error feedback, during the backward pass.

    Runs in the exchange's thread and in its group; `Exchange.drain` must be called before the gradients are looked at.
    """

    def __init__(self, exchange: Exchange, warming_up: Callable[[], bool] = lambda: False) -> None:
        """Takes the collectives, and whether gradients are still averaged in float32."""
        self._exchange, self._warming_up = exchange, warming_up
        self.residual: Tensor | None = None

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> dist.Work | None:
        """Reduces to the mean, whatever ``op`` is: FSDP asks for the mean."""
        del group, op, async_op
        codec = _FLOAT32 if self._warming_up() else _INT8

        def job() -> Tensor:
            rows = input_tensor.view(self._exchange.world, -1)
            if not codec.exact:
                if self.residual is None or self.residual.shape != rows.shape:
                    self.residual = torch.zeros_like(rows)
                rows = self.residual.add_(rows)
            mean = scatter_rows(codec, self._exchange, list(rows), codec.row_length(rows.shape[1], 1))
            return output_tensor.copy_(mean[: output_tensor.numel()])

        self._exchange.later(job, output_tensor.device)
        return None


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shards a network in place: large children each by themselves, the rest with the root."""
    for child in _groups(model):
        fully_shard(child, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _groups(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        values = sum(parameter.numel() for parameter in child.parameters())
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)) or values > 20 * GROUP_VALUES:
            yield from _groups(child)
        elif values > GROUP_VALUES:
            yield child


def sharded_modules(model: nn.Module) -> dict[str, FSDPModule]:
    """Returns the modules whose parameters travel together, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FSDPModule)}


def full(value: Any) -> Any:
    """Returns a structure with every sharded tensor whole; all workers must call it alike."""
    if isinstance(value, DTensor):
        return value.full_tensor().detach().cpu()
    if isinstance(value, dict):
        return {key: full(each) for key, each in value.items()}
    if isinstance(value, list):
        return [full(each) for each in value]
    return value


def like(whole: Tensor, pattern: Tensor) -> Tensor:
    """Returns a whole tensor cut as another one is; all workers must call it alike."""
    if not isinstance(pattern, DTensor) or whole.shape != pattern.shape:
        return whole
    return distribute_tensor(whole.to(pattern.device), pattern.device_mesh, pattern.placements)
