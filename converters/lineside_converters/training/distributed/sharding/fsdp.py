"""Everything sharded (torch's FSDP2), for networks whose state fits no worker; the others wait less."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.optim.swa_utils import AveragedModel

from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.gradients import GradientScheme
from lineside_converters.training.distributed.sharding.fsdp_collectives import (
    CollectiveMeter,
    HalfGather,
    Int8ReduceScatter,
    PlainGather,
    PlainReduceScatter,
    shard,
    sharded_modules,
)
from lineside_converters.training.distributed.sharding.layout import ExchangeCost, ShardingLayout


class FullySharded(ShardingLayout):
    """FSDP2: every worker holds its share of everything; parameters are gathered when a module needs them."""

    name = "fsdp"

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        self._counted = CollectiveMeter()
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
        """Waits for collectives in flight, and returns their time."""
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
