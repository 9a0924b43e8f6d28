"""Sharding layouts: everything on every worker (DDP), sharded optimiser state (ZeRO-1), all sharded (FSDP2).

The three are torch's own. A layout gives checkpoints in the form that a run of one process writes, so that a run can go
on with another layout, other workers, or alone.
"""

from __future__ import annotations

import abc
import copy
import inspect
import time
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from lineside_converters.training.distributed.exchange import Exchange, HandedBucket
from lineside_converters.training.distributed.gradients import GradientScheme
from lineside_converters.training.distributed.sharded import (
    CollectiveMeter,
    HalfGather,
    Int8ReduceScatter,
    PlainGather,
    PlainReduceScatter,
    full,
    like,
    shard,
    sharded_modules,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch's own: the package still uses torch.jit.script
    from torch.distributed.optim import ZeroRedundancyOptimizer

_SYNC_BUFFERS = next(  # torch 2.13 renamed it, and warns of the name of before
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel.__init__).parameters
)

BUCKET_MB = 25.0
"""Gradients that travel together: torch's own value."""


@dataclass(frozen=True, slots=True)
class ExchangeCost:
    """Time that the exchange of a step's gradients took.

    Attributes:
        waited_s: The training thread waited.
        handed: Exchanges during the backward pass, in order; empty if the thread waits for more than these.
    """

    waited_s: float
    handed: tuple[HandedBucket, ...] = ()


class ShardingLayout(abc.ABC):
    """Division of a network's state over the workers.

    Attributes:
        name: What the command line calls it.
        module: What is called in a step; set by `prepare`.
        copies: Of the parameters' bytes, how many a worker holds for the run: parameters, gradients, two moments,
            average, residuals. As a function of the number of workers, so that a layout can be chosen by size.
        gathered: Bytes sent outside of the gradients' scheme.
    """

    name: ClassVar[str]
    module: nn.Module

    @property
    def gathered(self) -> float:
        """Bytes sent outside of the gradients' scheme."""
        return 0.0

    @staticmethod
    @abc.abstractmethod
    def copies(world: int) -> float:
        """Returns how many times the parameters' bytes a worker holds."""

    @abc.abstractmethod
    def prepare(self, model: nn.Module, ema: AveragedModel, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Wraps or shards a network whose state is the same everywhere, and returns its optimiser."""

    @abc.abstractmethod
    def use(self, scheme: GradientScheme) -> None:
        """Averages gradients by this scheme from the next step on."""

    @abc.abstractmethod
    def settle(self, scheme: GradientScheme, backward_ended_s: float) -> ExchangeCost:
        """Waits for the gradients, and returns how long the training thread has waited in this step."""

    def whole(self, module: nn.Module) -> dict[str, Tensor]:
        """Returns a network's state with every tensor whole; all workers must call it alike."""
        found: dict[str, Tensor] = full(module.state_dict())
        return found

    def load(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        """Loads what `whole` returned."""
        module.load_state_dict({name: like(state[name], mine) for name, mine in module.state_dict().items()})

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Returns the optimiser's state as one process has it; all workers must call it alike."""
        found: dict[str, Any] = full(optimizer.state_dict())
        return found

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Loads what `optimizer_state` returned."""
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        cut = {
            number: {
                key: like(value, parameters[number]) if isinstance(value, Tensor) else value
                for key, value in of.items()
            }
            for number, of in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": cut})

    def averaged(self, ema: AveragedModel) -> nn.Module | None:
        """Returns the averaged network to evaluate, on the first worker; all workers must call it alike."""
        found: nn.Module = ema.module
        return found if dist.get_rank() == 0 else None

    def scheme_state(self, scheme: GradientScheme) -> dict[str, Any]:
        """Returns what a checkpoint must keep of this worker's part in compression."""
        return scheme.state()

    def restore_scheme(self, scheme: GradientScheme, state: dict[str, Any], device: torch.device) -> None:
        """Takes over what `scheme_state` returned."""
        scheme.restore(state, device)


class Replicated(ShardingLayout):
    """DDP: every worker holds the whole state."""

    name = "ddp"

    @staticmethod
    def copies(world: int) -> float:
        """Returns 7: parameters, gradients and their buckets, two moments, average, residuals."""
        del world
        return 7.0

    def prepare(self, model: nn.Module, ema: AveragedModel, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Wraps the network; running statistics stay each worker's own until an epoch ends."""
        del ema
        # gradients stay in the buckets that travel: they aren't copied in and out
        options: dict[str, Any] = {
            "bucket_cap_mb": BUCKET_MB,
            "gradient_as_bucket_view": True,
            _SYNC_BUFFERS: False,
        }
        self._replica = model
        self.module = DistributedDataParallel(model, **options)
        # torch looks at the hook's annotations and can't read those of a module whose annotations are strings
        self.module.register_comm_hook(None, lambda state, bucket: self._scheme.hook(state, bucket))
        return self._optimizer(groups)

    def _optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups)

    def use(self, scheme: GradientScheme) -> None:
        """Hands buckets to the scheme."""
        self._scheme = scheme
        scheme.watch(self._replica)

    def settle(self, scheme: GradientScheme, backward_ended_s: float) -> ExchangeCost:
        """Returns the time between the last bucket's hand-over and the end of the backward pass."""
        handed = scheme.exchange.drain()
        return ExchangeCost(max(0.0, backward_ended_s - handed[-1].at_s), handed)


class OptimizerSharded(Replicated):
    """ZeRO-1: every worker updates its share of the parameters and holds only their moments."""

    name = "zero1"

    @staticmethod
    def copies(world: int) -> float:
        """Returns 5, and a share of the two moments."""
        return 5.0 + 2.0 / world

    def __init__(self) -> None:
        self._sent, self._each = 0.0, 0.0

    @property
    def gathered(self) -> float:
        """Bytes of updated parameters that this worker has sent to the others."""
        return self._sent

    def _optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        optimizer = ZeroRedundancyOptimizer(groups, optimizer_class=torch.optim.AdamW, lr=1e-3)
        mine = [each for group in optimizer.optim.param_groups for each in group["params"]]
        self._each = float(sum(each.nbytes for each in mine) * (dist.get_world_size() - 1))
        optimizer.register_step_post_hook(self._count)
        return optimizer

    def _count(self, *_: Any) -> None:
        self._sent += self._each

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Gathers the shares with the first worker."""
        if not isinstance(optimizer, ZeroRedundancyOptimizer):
            raise TypeError(type(optimizer).__name__)
        optimizer.consolidate_state_dict(to=0)
        return optimizer.state_dict() if dist.get_rank() == 0 else {}

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Loads the shares that are this worker's."""
        optimizer.load_state_dict(state)


class FullySharded(ShardingLayout):
    """FSDP2: every worker holds its share of everything; parameters are gathered when a module needs them."""

    name = "fsdp"

    def __init__(self, exchange: Exchange) -> None:
        self._exchange, self._counted = exchange, CollectiveMeter()
        self._waited_s = 0.0
        self._reducers: dict[str, Int8ReduceScatter] = {}

    @property
    def gathered(self) -> float:
        """Bytes of parameters, and of gradients that no scheme counts."""
        return self._counted.bytes_sent

    @staticmethod
    def copies(world: int) -> float:
        """Returns a share of parameters, gradients, moments and average, the residuals, and what is gathered."""
        return 5.0 / world + 1.5

    def prepare(self, model: nn.Module, ema: AveragedModel, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Shards network and average alike; the optimiser gets the shares in the place of the parameters."""
        self._replica = copy.deepcopy(model) if dist.get_rank() == 0 else None
        names = {id(each): name for name, each in model.named_parameters()}
        named = [{**group, "params": [names[id(each)] for each in group["params"]]} for group in groups]
        for each in (model, ema.module):
            # FSDP2 takes no other
            each.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stubs lack it
        mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
        shard(model, mesh)
        shard(ema.module, mesh)
        self.module = model
        of = dict(model.named_parameters())
        return torch.optim.AdamW([{**group, "params": [of[name] for name in group["params"]]} for group in named])

    def use(self, scheme: GradientScheme) -> None:
        """Sends gradients as bytes and parameters in bfloat16 for ``int8``, both as they are otherwise."""
        self._reducers = {}
        for name, module in sharded_modules(self.module).items():
            if scheme.name == "int8":
                self._reducers[name] = Int8ReduceScatter(self._exchange, lambda: scheme.warming_up)
                module.set_custom_reduce_scatter(self._reducers[name])
                module.set_custom_all_gather(HalfGather(self._counted))
            else:
                module.set_custom_reduce_scatter(PlainReduceScatter(self._counted))
                module.set_custom_all_gather(PlainGather(self._counted))

    def settle(self, scheme: GradientScheme, backward_ended_s: float) -> ExchangeCost:
        """Waits for what is still under way, and returns the time in collectives."""
        scheme.exchange.drain()
        waited_s = self._counted.waited_s - self._waited_s + time.perf_counter() - backward_ended_s
        self._waited_s = self._counted.waited_s
        return ExchangeCost(waited_s)

    def averaged(self, ema: AveragedModel) -> nn.Module | None:
        """Returns a plain network with the averaged state."""
        state = self.whole(ema.module)
        if self._replica is not None:
            self._replica.load_state_dict(state)
        return self._replica

    def scheme_state(self, scheme: GradientScheme) -> dict[str, Any]:
        """Returns the residuals by module."""
        del scheme
        kept = {name: each.residual for name, each in self._reducers.items()}
        return {name: tensor.cpu().clone() for name, tensor in kept.items() if tensor is not None}

    def restore_scheme(self, scheme: GradientScheme, state: dict[str, Any], device: torch.device) -> None:
        """Takes the residuals over."""
        del scheme
        for name, each in self._reducers.items():
            each.residual = state[name].to(device) if name in state else None


LAYOUTS: dict[str, type[ShardingLayout]] = {kind.name: kind for kind in (Replicated, OptimizerSharded, FullySharded)}
"""All of them by name, the least divided first."""

FULLY_SHARDED_SCHEMES = ("fp32", "int8")
"""Schemes that FSDP2's reduce-scatter has here."""

ROOM = 0.6
"""Of a worker's memory, what the network's state may take: activations and pictures need the rest."""


def layout_for(parameter_bytes: int, memory_bytes: int, world: int) -> tuple[str, str]:
    """Returns the least divided layout that fits a worker's memory, and why.

    Args:
        parameter_bytes: Of the network in float32.
        memory_bytes: Of the smallest worker.
        world: Workers.
    """
    for name, kind in LAYOUTS.items():
        needed = kind.copies(world) * parameter_bytes
        if needed <= ROOM * memory_bytes or name == FullySharded.name:
            return name, (
                f"{needed / 1e6:.0f} MB of state a worker under {name}, of {ROOM:.0%} of {memory_bytes / 1e6:.0f} MB"
            )
    raise AssertionError("the last layout is always taken")


def new_layout(name: str, exchange: Exchange) -> ShardingLayout:
    """Returns a layout by name."""
    if name == FullySharded.name:
        return FullySharded(exchange)
    return OptimizerSharded() if name == OptimizerSharded.name else Replicated()


__all__ = ["LAYOUTS", "FSDPModule", "ShardingLayout", "layout_for", "new_layout"]
