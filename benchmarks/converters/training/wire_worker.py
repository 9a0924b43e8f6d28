"""One worker of `benchmarks.converters.training.wire`, in its own network namespace."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torchvision
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.converters.training import namespaces
from benchmarks.converters.training.ranks import join, leave
from benchmarks.converters.training.wire import SHARE
from benchmarks.smoke import scaled
from lineside_converters.training.distributed.sharded import shard
from lineside_converters.training.distributed.workers import Workers, WorkerSettings
from lineside_converters.training.loop import parameter_groups, start_run

NETWORK = scaled("resnet18", smoke="shufflenet_v2_x0_5")
STEPS, WARM_UP = scaled((6, 3), smoke=(1, 1))
RATES = scaled(6, smoke=1)
"""That are tried on the way to the wanted one."""

SIDE_PX, TYPES = 64, 12
CASES = {
    "fp32": ("ddp", "fp32"),
    "bf16": ("ddp", "bf16"),
    "int8": ("ddp", "int8"),
    "low-rank": ("ddp", "low-rank"),
    "zero1 low-rank": ("zero1", "low-rank"),
    "fsdp int8": ("fsdp", "int8"),
}
Step = Callable[[], None]


def network() -> nn.Module:
    """Returns torchvision's network, the same everywhere."""
    torch.manual_seed(0)
    found: nn.Module = torchvision.models.get_model(NETWORK, weights=None, num_classes=TYPES)
    return found


class Case:
    """One way to train, and what its steps cost."""

    def __init__(self, step: Step, reported: Callable[[], float], share: Callable[[], float]) -> None:
        self.step, self._reported, self.share = step, reported, share
        self.step_s: list[float] = []
        self.alone_s: list[float] = []
        self.interface_bytes, self.reported_bytes = 0, 0.0

    def measure(self, alone: Step, interface: Path) -> None:
        """Makes a step without communication and one with it."""
        dist.barrier()
        self.alone_s.append(_timed(alone))
        dist.barrier()
        before, reported = _sent(interface), self._reported()
        self.step_s.append(_timed(self.step))
        dist.barrier()
        time.sleep(0.02)  # what the kernel still holds
        self.interface_bytes += _sent(interface) - before
        self.reported_bytes += self._reported() - reported

    def row(self) -> dict[str, Any]:
        """Returns the figures."""
        return {
            "step_s": self.step_s,
            "alone_s": self.alone_s,
            "interface_bytes": self.interface_bytes,
            "reported_bytes": self.reported_bytes,
            "reported_share": self.share(),
        }


def _timed(step: Step) -> float:
    began_s = time.perf_counter()
    step()
    return time.perf_counter() - began_s


def _sent(interface: Path) -> int:
    return int((interface / "tx_bytes").read_text())


def bare(model: nn.Module, images: Tensor, labels: Tensor) -> Step:
    """Returns a step of torch's own."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        optimizer.step()

    return step


def ours(layout: str, scheme: str, images: Tensor, labels: Tensor) -> Case:
    """Returns a case of ours: what the loop does in a step, without the moving average, which torch's has not."""
    how = WorkerSettings(layout=layout, scheme=scheme, batch=2 * len(images), warm_up_steps=0)
    workers = Workers(how, torch.device("cpu"), Path(tempfile.mkdtemp()), lambda *_: None)
    model = network()
    run = start_run(model, parameter_groups(model, lambda _: 1e-3), strategy=workers)

    def loss(module: nn.Module, _: None) -> Tensor:
        return F.cross_entropy(module(images), labels)

    def step() -> None:
        total = workers.forward(run, loss, None)
        run.optimizer.zero_grad(set_to_none=True)
        workers.backward(run, total)
        run.optimizer.step()
        workers.step_ended(run)
        run.step += 1

    def share() -> float:
        steps = workers.meter.steps[-STEPS:]
        return float(sum(each.waited_s for each in steps) / sum(each.seconds for each in steps))

    return Case(step, workers._bytes_sent, share)


def torch_fsdp(images: Tensor, labels: Tensor) -> Step:
    """Returns a step of FSDP2 with torch's own collectives."""
    model = network()
    shard(model, init_device_mesh("cpu", (2,)))
    return bare(model, images, labels)


def set_rate(interface: str, rate_mbit: float) -> None:
    """Shapes what this end sends, at both ends."""
    namespaces.set_rate(interface, rate_mbit)
    dist.barrier()


def found_rate(ddp: Step, alone: Step, interface: str) -> float:
    """Returns the rate at which torch's DDP spends about the wanted share of a step communicating."""
    compute_s = _both(statistics.median(_timed(alone) for _ in range(4)))
    wanted_s = compute_s / (1 - SHARE)
    low, high = 40.0, 20_000.0
    for _ in range(RATES):
        rate = (low * high) ** 0.5
        set_rate(interface, rate)
        ddp()
        step_s = _both(statistics.median(_timed(ddp) for _ in range(2)))
        low, high = (rate, high) if step_s > wanted_s else (low, rate)
    return float((low * high) ** 0.5)


def _both(seconds: float) -> float:
    value = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(value)
    return float(value) / 2


def main(batch: int, rank: int, workers: int, interface: str) -> None:
    """Measures every case, and prints one line of JSON."""
    join(rank, workers)
    images = torch.randn((batch, 3, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(rank))
    labels = torch.arange(batch) % TYPES
    alone = bare(network(), images, labels)
    ddp = bare(DistributedDataParallel(network()), images, labels)
    for step in (alone, ddp, alone, ddp):
        step()
    rate = found_rate(ddp, alone, interface)
    nothing: Callable[[], float] = lambda: 0.0  # noqa: E731  # torch reports none
    cases = {"torch ddp": Case(ddp, nothing, nothing)}
    set_rate(interface, 10_000)
    cases["torch fsdp"] = Case(torch_fsdp(images, labels), nothing, nothing)
    cases |= {name: ours(*case, images, labels) for name, case in CASES.items()}
    for case in cases.values():
        for _ in range(WARM_UP):
            case.step()
    set_rate(interface, rate)
    counters = Path("/sys/class/net") / interface / "statistics"
    for _ in range(STEPS):
        for case in cases.values():
            case.measure(alone, counters)
    rows = {name: case.row() for name, case in cases.items()}
    content = {
        "network": f"torchvision's {NETWORK}, {TYPES} types, {batch} pictures of {SIDE_PX} px a worker",
        "rate_mbit": rate,
        "load": os.getloadavg()[0],
        "cases": rows,
    }
    print(json.dumps(content), flush=True)
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
