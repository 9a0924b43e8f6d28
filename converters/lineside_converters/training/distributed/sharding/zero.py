"""Sharded optimiser state with quantised collectives (ZeRO, with qgZ and updates in the place of qwZ of ZeRO++).

Every worker owns a row of each bucket of parameters. During the backward pass a bucket's gradients are averaged for
their owners alone (reduce-scatter by all-to-all). The owner updates float32 masters of its row, and sends all others
what has changed since they last heard of it, rounded by the scheme's codec. What the rounding leaves is still the
difference between master and copy, and so part of the next update: error feedback that costs no memory. All copies are
the same bits, the owner's own included, because all add the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lineside_converters.training.distributed.gradients import GradientScheme
from lineside_converters.training.distributed.gradients.codecs import gather_rows
from lineside_converters.training.distributed.sharding.flat_parameters import FlatBucket, FlatParameters
from lineside_converters.training.distributed.sharding.layout import ExchangeCost, ShardingLayout

_MOMENTS = ("exp_avg", "exp_avg_sq")


class _OwnRow:
    """This worker's row of a bucket.

    Attributes:
        master: ``(length,) float32``: the exact values.
        mean: ``(length,) float32``: gradients.
        slices: Of each parameter in the row: name, and view of ``master``.
    """

    def __init__(self, bucket: FlatBucket, rank: int) -> None:
        self.bucket, self._rank = bucket, rank
        self.master = bucket.row(rank).clone()
        self.mean = torch.zeros_like(self.master)
        spans = list(bucket.spans(rank))
        self._spans = [slice(begin, end) for _, begin, end in spans]
        self.slices = [(name, each) for (name, _, _), each in zip(spans, self.parts(self.master), strict=True)]

    def parts(self, row: Tensor) -> list[Tensor]:
        """Returns the parts of a ``(length,)`` tensor in each of ``slices``."""
        return [row[span] for span in self._spans]

    def set_gradients(self) -> None:
        for (_, values), mean in zip(self.slices, self.parts(self.mean), strict=True):
            values.grad = mean

    def update_since_copy(self) -> Tensor:
        return self.master - self.bucket.row(self._rank)


class OptimizerSharded(ShardingLayout):
    """ZeRO: every worker updates its share of the parameters and holds only their moments."""

    name = "zero1"

    @staticmethod
    def copies(world: int) -> float:
        """Returns 4: parameters, gradients, average, residuals; and a share of masters, means and two moments."""
        return 4.0 + 4.0 / world

    def prepare(self, model: nn.Module, ema: AveragedModel, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Moves the parameters into flat buckets; the optimiser gets the slices of this worker's rows."""
        del ema
        self.module = model
        names = {id(each): name for name, each in model.named_parameters()}
        self._groups = [[names[id(each)] for each in group["params"]] for group in groups]
        trained = {name for group in self._groups for name in group}
        named = [(name, each) for name, each in model.named_parameters() if name in trained]
        self._flat = FlatParameters(named, self._exchange.world, self._hand_over)
        self._rows = {id(each): _OwnRow(each, self._exchange.rank) for each in self._flat.buckets}
        slices = [each for row in self._rows.values() for each in row.slices]
        own = [[values for name, values in slices if name in set(of)] for of in self._groups]
        self._optimizer = torch.optim.AdamW(
            [{**group, "params": params} for group, params in zip(groups, own, strict=True)], fused=True
        )
        self._optimizer.register_step_post_hook(self._publish)
        return self._optimizer

    def use(self, scheme: GradientScheme) -> None:
        """Averages gradients and sends updates by this scheme."""
        self._scheme = scheme

    def _hand_over(self, bucket: FlatBucket) -> None:
        scheme, row = self._scheme, self._rows[id(bucket)]
        self._exchange.later(
            lambda: row.mean.copy_(scheme.scattered(bucket.bundled(), bucket.length)), bucket.values.device
        )

    def settle(self, scheme: GradientScheme, backward_ended_s: float) -> ExchangeCost:
        """Waits for the means of this worker's rows."""
        self._flat.flush()
        scheme.exchange.drain()
        for row in self._rows.values():
            row.set_gradients()
        return ExchangeCost(time.perf_counter() - backward_ended_s)

    def clip(self, model: nn.Module, largest_norm: float) -> None:
        """Scales the gradients of all rows by their common norm."""
        del model
        began_s = time.perf_counter()
        means = [row.mean for row in self._rows.values()]
        squares = torch.stack([torch.dot(each, each) for each in means]).sum()
        norm = self._exchange.sum(squares).sqrt()
        self.update_waited_s += time.perf_counter() - began_s
        factor = (largest_norm / (norm + 1e-6)).clamp(max=1.0)
        if not bool(factor >= 1.0):  # no number must reach the parameters, so that a run shows it
            torch._foreach_mul_(means, factor)

    def _publish(self, *_: Any) -> None:
        """Sends the updates of this worker's rows, and adds everybody's."""
        began_s = time.perf_counter()
        for row in self._rows.values():
            self._exchange.later(self._publication(row), row.master.device)
        self._exchange.drain()
        self.update_waited_s += time.perf_counter() - began_s

    def _publication(self, row: _OwnRow) -> Callable[[], Tensor]:
        codec, bucket = self._scheme.update_codec, row.bucket

        def job() -> Tensor:
            sent = row.master.clone() if codec.exact else row.update_since_copy()
            return gather_rows(codec, self._exchange, sent, bucket.values, bucket.length, add=not codec.exact)

        return job

    def whole(self, module: nn.Module) -> dict[str, Tensor]:
        """Returns copies: a view would be written to a file with all of its bucket."""
        return {name: each.clone() for name, each in super().whole(module).items()}

    def load(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        """Loads what `whole` returned, the masters too."""
        super().load(module, state)
        if module is self.module:
            for row in self._rows.values():
                row.master.copy_(row.bucket.row(self._exchange.rank))

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Gathers the moments, each in its parameter's shape."""
        own = optimizer.state_dict()
        numbers = self._numbers()
        groups = [
            {**group, "params": [numbers[name] for name in names]}
            for group, names in zip(own["param_groups"], self._groups, strict=True)
        ]
        step = self._steps(optimizer)
        if not float(step):
            return {"state": {}, "param_groups": groups}
        found: dict[int, dict[str, Tensor]] = {number: {} for number in numbers.values()}
        for row in self._rows.values():
            for key in _MOMENTS:
                part = torch.zeros_like(row.master)
                for (_, values), into in zip(row.slices, row.parts(part), strict=True):
                    into.copy_(optimizer.state[values][key])
                for name, whole in row.bucket.views(self._exchange.gather(part).flatten()).items():
                    found[numbers[name]][key] = whole.clone().cpu()
        return {"state": {number: {"step": step.clone(), **of} for number, of in found.items()}, "param_groups": groups}

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Takes the moments of this worker's rows."""
        numbers = self._numbers()
        positions = {id(v): n for n, v in enumerate(v for g in optimizer.param_groups for v in g["params"])}
        cut: dict[int, dict[str, Tensor]] = {}
        for row in self._rows.values() if state["state"] else ():
            for key in _MOMENTS:
                flat = torch.zeros_like(row.bucket.values)
                for name, view in row.bucket.views(flat).items():
                    view.copy_(state["state"][numbers[name]][key])
                part = self._flat.rows(flat)[self._exchange.rank]
                for (name, values), moment in zip(row.slices, row.parts(part), strict=True):
                    of = cut.setdefault(positions[id(values)], {"step": state["state"][numbers[name]]["step"].clone()})
                    of[key] = moment.clone()
        groups = [
            {**group, "params": [positions[id(each)] for each in own["params"]]}
            for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
        ]
        optimizer.load_state_dict({"state": cut, "param_groups": groups})

    def _steps(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Returns the optimiser's steps; a worker of a small network may own no state that counts them."""
        mine = max([0.0, *(float(each["step"]) for each in optimizer.state.values())])
        return self._exchange.gather(torch.tensor([mine])).max()

    def _numbers(self) -> dict[str, int]:
        """Returns the parameters' numbers in the optimiser of one process."""
        return {name: number for number, name in enumerate(name for names in self._groups for name in names)}

    def scheme_state(self, scheme: GradientScheme) -> dict[str, Any]:
        """Returns the residuals of gradients, and of the updates."""
        updates = [row.update_since_copy().cpu() for row in self._rows.values()]
        return {"gradients": scheme.state(), "updates": updates}

    def restore_scheme(self, scheme: GradientScheme, state: dict[str, Any], device: torch.device) -> None:
        """Takes both over."""
        if state["gradients"]:
            scheme.restore(state["gradients"], device)
        for row, update in zip(self._rows.values(), state["updates"], strict=True):
            row.master.copy_(row.bucket.row(self._exchange.rank)).add_(update.to(device))
