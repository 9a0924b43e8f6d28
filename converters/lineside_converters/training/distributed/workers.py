"""Strategy of the training loop as one of several workers."""

from __future__ import annotations

import copy
import dataclasses
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lineside_converters.training import checkpoints
from lineside_converters.training.checkpoints import TrainingRun
from lineside_converters.training.distributed import scheme_selection
from lineside_converters.training.distributed.batch_shares import ShareSchedule, balanced, part_of
from lineside_converters.training.distributed.cost import CostMeter, StepCost, WorkerCost, figures_of, relative
from lineside_converters.training.distributed.exchange import Exchange, gather_into
from lineside_converters.training.distributed.gradients import SCHEMES, GradientScheme, Local
from lineside_converters.training.distributed.local_updates import LocalUpdates
from lineside_converters.training.distributed.scheme_selection import TrialTime
from lineside_converters.training.distributed.sharding import (
    FULLY_SHARDED_SCHEMES,
    LAYOUTS,
    OptimizerSharded,
    layout_for,
    layouts_with,
    new_layout,
)
from lineside_converters.training.distributed.sharding.layout import BUCKET_MB
from lineside_converters.training.loop import average, average_decay
from lineside_converters.training.strategy import BatchPart, Figures, Strategy, copied
from lineside_runtime.errors import TrainingError

B = TypeVar("B")
AUTO = "auto"
WARM_UP_STEPS = 30
"""Steps of a run whose gradients are averaged in float32 whatever the scheme."""

DECIDED_AT = 8
"""Steps after which ``auto`` has measured a step."""

_AHEAD = 8  # more than the batches that are made ahead of the step that trains
log = logging.getLogger("lineside.training")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings that are the same on all workers.

    Attributes:
        layout: ``ddp``, ``zero1``, ``fsdp``, or ``auto``: by the network's size and a worker's memory.
        scheme: ``fp32``, ``bf16``, ``int8``, ``int4``, ``low-rank``, ``local``, or ``auto``: by what is measured.
        measured_shares: Whether a slow worker gets fewer rows of a batch.
        batch: Rows of a whole batch.
        memory_bytes: Of the smallest worker; 0 where nobody knows.
        warm_up_steps: Steps of the run that are averaged in float32.
        round_checkpoints: Whether each round of local updates ends with a checkpoint, beside each epoch.
    """

    layout: str = AUTO
    scheme: str = AUTO
    measured_shares: bool = False
    batch: int = 0
    memory_bytes: int = 0
    warm_up_steps: int = WARM_UP_STEPS
    round_checkpoints: bool = False


class Workers(Strategy):
    """One of several workers; torch's process group must be there."""

    def __init__(
        self,
        settings: WorkerSettings,
        device: torch.device,
        out: Path,
        saved: Callable[[TrainingRun, Path, Figures], None],
    ) -> None:
        """Takes the settings.

        Args:
            settings: The same on all workers.
            out: Folder of this worker's files; a run that is resumed has its own there.
            saved: Called on every worker when a checkpoint lies in the first one's folder.

        Raises:
            TrainingError: There are fewer than two rows for a worker.
        """
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        if settings.batch and settings.batch < 2 * self.world:
            raise TrainingError(
                "the batch is too small for the workers",
                expected=f"{2 * self.world} or more",
                actual=settings.batch,
                action="Give --batch more, or fewer workers.",
            )
        self.settings, self.device = settings, device
        self.exchange = Exchange()
        self.schedule = ShareSchedule(self.world)
        self.meter = CostMeter()
        self.layout_name = self.layout_why = ""
        self.scheme_why = "asked for"
        self.local: LocalUpdates | None = None
        self._out, self._saved = out, saved
        self._since = 0

    def part(self, step: int) -> BatchPart:
        """Returns this worker's rows of a step."""
        return part_of(self.schedule.at(step), self.rank)

    def prepare(self, model: nn.Module, ema: AveragedModel, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Distributes network and average over the workers, starting from the first worker's."""
        model.to(self.device)
        ema.to(self.device)
        for tensor in (*model.state_dict().values(), *ema.state_dict().values()):
            dist.broadcast(tensor, 0)
        size = sum(each.nbytes for each in model.parameters())
        self.layout_name, self.layout_why = self.settings.layout, "asked for"
        if self.settings.layout == AUTO and self.settings.scheme == Local.name:
            self.layout_name, self.layout_why = "ddp", "local updates divide the state of the outer optimiser alone"
        elif self.settings.layout == AUTO:
            names = tuple(LAYOUTS) if self.settings.scheme == AUTO else layouts_with(self.settings.scheme)
            memory_bytes = self.settings.memory_bytes or 8 << 30
            self.layout_name, self.layout_why = layout_for(size, memory_bytes, self.world, names)
        self._check_scheme()
        self._alone_s = self._time_schemes(model)
        self._last_share = scheme_selection.last_share_of(model, BUCKET_MB * 2**20)
        self.layout = new_layout(self.layout_name, self.exchange)
        optimizer = self.layout.prepare(model, ema, groups)
        self.use("fp32" if self.settings.scheme == AUTO else self.settings.scheme)
        return optimizer

    def _check_scheme(self) -> None:
        if self.settings.scheme != AUTO and self.layout_name != "ddp" and SCHEMES[self.settings.scheme].local:
            raise TrainingError(
                "local updates with sharded state",
                expected="--sharding auto or ddp: between two exchanges each worker updates all parameters",
                actual=self.layout_name,
                action="Give another --sharding, or --gradients int4.",
            )
        if self.layout_name == "fsdp" and self.settings.scheme not in (AUTO, *FULLY_SHARDED_SCHEMES):
            raise TrainingError(
                "this form of gradients does not work with fully sharded parameters (--sharding fsdp)",
                expected=" or ".join(f"--gradients {name}" for name in FULLY_SHARDED_SCHEMES),
                actual=self.settings.scheme,
                action="Give another --gradients, or --sharding ddp or zero1.",
            )

    def _time_schemes(self, model: nn.Module) -> dict[str, TrialTime]:
        if self.settings.scheme != AUTO:
            return {}
        sharded = self.layout_name == OptimizerSharded.name
        names = FULLY_SHARDED_SCHEMES if self.layout_name == "fsdp" else tuple(SCHEMES)
        names = tuple(name for name in names if self.layout_name == "ddp" or not SCHEMES[name].local)
        return scheme_selection.time_schemes(model, self.exchange, names, sharded=sharded)

    def use(self, name: str) -> None:
        """Averages gradients by a scheme from now on."""
        self.scheme: GradientScheme = SCHEMES[name](self.exchange, warm_up_steps=self.settings.warm_up_steps)
        self.layout.use(self.scheme)
        self.meter.settled_at = len(self.meter.steps)

    def forward(self, run: TrainingRun, loss: Callable[[nn.Module, B], Tensor], batch: B) -> Tensor:
        """Returns the loss of this worker's rows, weighted so that the mean over workers is that over all rows."""
        self.scheme.begin(run.step)
        if self.scheme.local and self.local is None and not self.scheme.warming_up:
            self._train_alone(run, run.step)
        if run.step == self.settings.warm_up_steps and not self.scheme.lossless:
            self.meter.settled_at = len(self.meter.steps)
        self._sent, self._waited_s = self._bytes_sent(), self._outside_wait_s()
        self._began_s = time.perf_counter()
        total = loss(self.layout.module, _on(batch, self.device))
        self._forward_s = time.perf_counter() - self._began_s
        return total

    def backward(self, run: TrainingRun, total: Tensor) -> None:
        """Leaves the mean gradients with the parameters."""
        began_s = time.perf_counter()
        torch.autograd.backward(total * self._weight(run.step))
        ended_s = time.perf_counter()
        self._settled = self.layout.settle(self.scheme, ended_s)
        self._backward_s = time.perf_counter() - began_s - self._settled.waited_s

    def clip(self, run: TrainingRun, largest_norm: float) -> None:
        """Scales the gradients down to this norm, wherever they are."""
        self.layout.clip(run.model, largest_norm)

    def update_average(self, run: TrainingRun) -> None:
        """Moves the average; that of parameters moves by merges alone while workers train alone."""
        if self.local is None:
            super().update_average(run)
            return
        average(list(run.ema.module.buffers()), list(run.model.buffers()), run.ema.n_averaged)
        run.ema.n_averaged += 1

    def _train_alone(self, run: TrainingRun, step: int) -> LocalUpdates:
        """Begins local updates; all workers have the same parameters."""
        averages = {id(each): of for each, of in zip(run.model.parameters(), run.ema.module.parameters(), strict=True)}

        def on_merge(parameters: Sequence[nn.Parameter], common: Sequence[Tensor], steps: int) -> None:
            kept = average_decay(int(run.ema.n_averaged)) ** steps
            into = [averages[id(each)].detach() for each in parameters]
            torch._foreach_lerp_(into, list(common), 1 - kept)

        trained = [each for each in run.model.parameters() if each.requires_grad]
        self.local = LocalUpdates(self.exchange, trained, on_merge)
        self.local.begin(step)
        self.layout.train_alone(True)
        return self.local

    def _outside_wait_s(self) -> float:
        """Returns the seconds that the training thread has waited outside of `ShardingLayout.settle`."""
        return self.layout.update_waited_s + (0.0 if self.local is None else self.local.waited_s)

    def _weight(self, step: int) -> float:
        return self._rows(step) * self.world / self.settings.batch if self.settings.batch else 1.0

    def _rows(self, step: int) -> int:
        return len(range(self.settings.batch)[self.part(step).rows(self.settings.batch)])

    def step_ended(self, run: TrainingRun) -> None:
        """Measures the step, and lets ``auto`` decide after `DECIDED_AT` steps."""
        if self.local is not None:
            self.local.step_ended(run.step + 1)
        step_s = time.perf_counter() - self._began_s
        waited_s = self._settled.waited_s + self._outside_wait_s() - self._waited_s
        self.meter.steps.append(
            StepCost(
                seconds=step_s,
                waited_s=min(waited_s, step_s),
                forward_s=self._forward_s,
                backward_s=self._backward_s,
                rows=self._rows(run.step),
                bytes_sent=self._bytes_sent() - self._sent,
                exchanged=relative(self._settled.handed),
            )
        )
        if self._alone_s and len(self.meter.steps) == DECIDED_AT:
            self._decide()

    def _bytes_sent(self) -> float:
        return self.exchange.bytes_sent + self.layout.gathered

    def figures(self) -> WorkerCost:
        """Returns this worker's figures."""
        return figures_of(
            self.meter,
            layout=self.layout_name,
            layout_why=self.layout_why,
            scheme=self.scheme.name,
            scheme_why=self.scheme_why,
            shares=self.schedule.at(1 << 60),
        )

    def _decide(self) -> None:
        steps = self.meter.steps
        backward_s = scheme_selection.slowest(statistics.median(each.backward_s for each in steps), self.device)
        compute_s = backward_s + scheme_selection.slowest(
            statistics.median(each.forward_s for each in steps), self.device
        )
        choice = scheme_selection.choose(
            self._alone_s,
            compute_s=compute_s,
            backward_s=backward_s,
            last_share=self._last_share,
            equal=scheme_selection.SHOWN_EQUAL[self.layout_name],
        )
        self.scheme_why, self._alone_s = choice.why, {}
        log.info("gradients travel as %s: %s", choice.scheme, choice.why)
        if choice.scheme != self.scheme.name:
            self.use(choice.scheme)

    def agree(self, value: float) -> float:
        """Returns the first worker's value."""
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return float(tensor)

    def mean(self, value: float) -> float:
        """Returns the mean over the workers."""
        return float(np.mean(self.gathered(value)))

    def gathered(self, value: float) -> list[float]:
        """Returns every worker's value."""
        mine = torch.tensor([value], dtype=torch.float64, device=self.device)
        found = torch.empty(self.world, dtype=torch.float64, device=self.device)
        gather_into(found, mine)
        return [float(each) for each in found]

    def evaluate(self, run: TrainingRun, evaluate: Callable[[nn.Module], Figures]) -> Figures:
        """Evaluates on the first worker, with the workers' mean running statistics."""
        if self.local is not None:
            self.local.finish(run.step)
        for buffers in (run.model.buffers(), run.ema.module.buffers()):
            self._average_buffers(list(buffers))
        network = self.layout.averaged(run.ema)
        found: list[Figures | None] = [None]
        if network is not None:
            found = [evaluate(network if self.device.type == "cpu" else copy.deepcopy(network).cpu())]
        dist.broadcast_object_list(found, 0, device=self.device)
        if found[0] is None:
            raise TrainingError("the first worker sent no figures")
        return found[0]

    def _common(self, run: TrainingRun) -> dict[str, Tensor]:
        """Returns the common values of parameters while workers train alone."""
        if self.local is None:
            return {}
        self.local.settle(run.step)
        common = self.local.common()
        return {name: common[id(each)].clone() for name, each in run.model.named_parameters() if id(each) in common}

    def checkpoint_due(self, run: TrainingRun) -> bool:
        """Returns whether a round of local updates has ended, where each has a checkpoint."""
        return self.settings.round_checkpoints and self.local is not None and self.local.round_ended(run.step)

    def _average_buffers(self, buffers: list[Tensor]) -> None:
        floats = [each for each in buffers if each.is_floating_point()]
        if not floats:
            return
        flat = torch.cat([each.flatten().float() for each in floats])
        dist.all_reduce(flat)
        flat /= self.world
        for each, part in zip(floats, torch.split(flat, [each.numel() for each in floats]), strict=True):
            each.copy_(part.view(each.shape))

    def best(self, run: TrainingRun) -> dict[str, Tensor]:
        """Returns the whole averaged network on the first worker, nothing on others."""
        network = self.layout.averaged(run.ema)
        return {} if network is None else {name: each.cpu() for name, each in copied(network).items()}

    def state(self, run: TrainingRun) -> dict[str, Any]:
        """Returns the checkpoint of one process, and the state of the workers."""
        self._balance(run.step)
        average = {f"module.{name}": tensor for name, tensor in self.layout.whole(run.ema.module).items()}
        return {
            "model": self.layout.whole(run.model) | self._common(run),
            "ema": average | {"n_averaged": run.ema.n_averaged.cpu()},
            "optimizer": self.layout.optimizer_state(run.optimizer),
            **run.plain_state(),
            "workers": {
                "scheme": self.scheme.name,
                "why": self.scheme_why,
                "decided": not self._alone_s,
                "shares": self.schedule.state(),
            },
        }

    def _balance(self, step: int) -> None:
        since, self._since = self._since, len(self.meter.steps)
        if not self.settings.measured_shares or self.layout_name == "fsdp" or self._since - since < 4:
            return  # under FSDP2 the forward pass waits for others, and says nothing of a worker
        seconds = self.gathered(statistics.median(each.forward_s for each in self.meter.steps[since:]))
        shares = balanced(self.schedule.at(step), seconds)
        if shares != self.schedule.at(step):
            log.info("shares of a batch from step %d on: %s", step + _AHEAD, np.round(shares, 3).tolist())
        self.schedule.add(step + _AHEAD, shares)

    def restore(self, run: TrainingRun, state: dict[str, Any]) -> None:
        """Takes over a checkpoint of one process or of any number of workers."""
        self.layout.load(run.model, state["model"])
        average = {name.removeprefix("module."): tensor for name, tensor in state["ema"].items()}
        run.ema.n_averaged.copy_(average.pop("n_averaged"))
        self.layout.load(run.ema.module, average)
        peaks = run.peaks()
        self.layout.load_optimizer(run.optimizer, state["optimizer"])
        run.restore_plain(state, peaks)
        workers = state.get("workers")
        if workers is not None:
            self.schedule.restore(workers["shares"])
            if self.settings.scheme == AUTO and workers["decided"]:
                self.scheme_why, self._alone_s = workers["why"], {}
                self.use(workers["scheme"])
        self._restore_own(run)

    def saved(self, run: TrainingRun, out: Path, figures: Figures) -> None:
        """Writes this worker's compression residuals beside the checkpoint."""
        kept = self.layout.scheme_state(self.scheme)
        state = {"step": run.step, "world": self.world, "scheme": self.scheme.name, "kept": kept}
        if self.local is not None:
            state["local"] = self.local.state()
        checkpoints.save(own_file(out, self.rank), state)
        self._saved(run, out, figures)

    def _restore_own(self, run: TrainingRun) -> None:
        """Reads what `saved` wrote at the run's step for the same number of workers."""
        path = own_file(self._out, self.rank)
        if not path.exists():
            return
        state = checkpoints.load(path)
        if (state["step"], state["world"], state["scheme"]) != (run.step, self.world, self.scheme.name):
            return
        if state["kept"]:
            self.layout.restore_scheme(self.scheme, state["kept"], self.device)
        if "local" in state:
            self._train_alone(run, run.step).restore(state["local"], run.step)


def own_file(out: Path, rank: int) -> Path:
    """Returns the file of a worker's own state."""
    return out / f"worker-{rank}.pt"


def _on(batch: B, device: torch.device) -> B:
    """Returns a batch on a device."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device)  # type: ignore[return-value]  # it is B
    fields = {each.name: getattr(batch, each.name) for each in dataclasses.fields(batch)}  # type: ignore[arg-type]
    return dataclasses.replace(batch, **{name: each.to(device) for name, each in fields.items()})  # type: ignore[type-var]
