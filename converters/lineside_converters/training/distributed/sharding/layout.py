"""Base of the sharding layouts, and the one with everything on every worker (torch's DDP).

A layout gives checkpoints in the form that a run of one process writes, so that a run can go on with another layout,
other workers, or alone.
"""

from __future__ import annotations

import abc
import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from lineside_converters.training.distributed.exchange import Exchange, HandedBucket
from lineside_converters.training.distributed.gradients import GradientScheme
from lineside_converters.training.distributed.sharding.fsdp_collectives import full, like

_SYNC_BUFFERS = next(  # torch 2.13 renamed it, and warns of the old name
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
        gathered: Bytes sent outside of the exchange.
        update_waited_s: Time that the training thread has waited in updates, all steps together.
    """

    name: ClassVar[str]
    module: nn.Module

    def __init__(self, exchange: Exchange) -> None:
        """Takes the collectives."""
        self._exchange = exchange
        self.update_waited_s = 0.0

    @property
    def gathered(self) -> float:
        """Bytes sent outside of the exchange."""
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

    def clip(self, model: nn.Module, largest_norm: float) -> None:
        """Scales the gradients down to this norm, if theirs is larger."""
        nn.utils.clip_grad_norm_(model.parameters(), largest_norm)

    def train_alone(self, alone: bool) -> None:
        """Turns the averaging of gradients off, or on again; only DDP can."""
        raise NotImplementedError(self.name)

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
        """Returns this worker's state of compression for a checkpoint."""
        return scheme.state()

    def restore_scheme(self, scheme: GradientScheme, state: dict[str, Any], device: torch.device) -> None:
        """Takes over what `scheme_state` returned."""
        scheme.restore(state, device)


class Replicated(ShardingLayout):
    """DDP: every worker holds the whole state."""

    name = "ddp"

    @staticmethod
    def copies(world: int) -> float:
        """Returns 6: parameters, gradients in their buckets, two moments, average, residuals."""
        del world
        return 6.0

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
        return torch.optim.AdamW(groups, fused=True)

    def use(self, scheme: GradientScheme) -> None:
        """Hands buckets to the scheme."""
        self._scheme = scheme
        scheme.watch(self._replica)

    def train_alone(self, alone: bool) -> None:
        """Switches DDP's synchronization, as its ``no_sync`` does."""
        self.module.require_backward_grad_sync = not alone  # type: ignore[assignment]  # the stub says Tensor | Module

    def settle(self, scheme: GradientScheme, backward_ended_s: float) -> ExchangeCost:
        """Returns the time between the last bucket's hand-over and the end of the backward pass."""
        if not self.module.require_backward_grad_sync:
            return ExchangeCost(0.0)
        handed = scheme.exchange.drain()
        return ExchangeCost(max(0.0, backward_ended_s - handed[-1].at_s), handed)
