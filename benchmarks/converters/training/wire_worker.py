"""One worker of `benchmarks.converters.training.wire`, in its own network namespace."""

from __future__ import annotations

import ctypes
import functools
import gc
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
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.converters.training import namespaces
from benchmarks.converters.training.ranks import join, leave
from benchmarks.converters.training.wire import BACKWARD, BATCHES, RATES_MBIT, SHARE
from benchmarks.smoke import scaled
from lineside_converters.training.distributed.gradients.local import ROUND_STEPS
from lineside_converters.training.distributed.scheme_selection import last_share_of
from lineside_converters.training.distributed.sharding.layout import BUCKET_MB
from lineside_converters.training.distributed.workers import Workers, WorkerSettings
from lineside_converters.training.loop import GRADIENT_NORM, parameter_groups, start_run
from lineside_converters.training.memory_pages import kept_pages

NETWORK = scaled("resnet18", smoke="shufflenet_v2_x0_5")
SLOW_MBIT, SLOW_CASES = scaled(RATES_MBIT[:2], smoke=()), ("torch ddp", "zero1 int4")
"""Links on which a step is so long that it is measured whatever else the machine does."""

STEPS, WARM_UP = scaled((4, 2), smoke=(1, 1))
ROUNDS = scaled(1, smoke=0)
"""Of local updates, beside `STEPS`: their steps differ, so that whole rounds are measured."""

SIDE_PX, TYPES = 64, 12
FEW = {"fp32": ("ddp", "fp32"), "zero1 int4": ("zero1", "int4"), "local": ("ddp", "local")}
"""Cases of more than two workers, and of a smoke run."""

_ALL = {
    "fp32": ("ddp", "fp32"),
    "low-rank": ("ddp", "low-rank"),
    "zero1 int8": ("zero1", "int8"),
    "zero1 int4": ("zero1", "int4"),
    "zero1 low-rank": ("zero1", "low-rank"),
    "local": ("ddp", "local"),
    "fsdp int8": ("fsdp", "int8"),
}
CASES = scaled(_ALL, smoke=FEW)
Step = Callable[[], None]


def network() -> nn.Module:
    """Returns torchvision's network, the same everywhere."""
    torch.manual_seed(0)
    found: nn.Module = torchvision.models.get_model(NETWORK, weights=None, num_classes=TYPES)
    return found


class Case:
    """One way to train, and what its steps cost."""

    def __init__(self, step: Step, reported: Callable[[], float], waited: Callable[[], float], rounds: int) -> None:
        self.step, self._reported, self._waited = step, reported, waited
        self.steps = rounds * ROUND_STEPS or STEPS
        self.memory_bytes = 0
        self.step_s: list[float] = []
        self.waited_s: list[float] = []
        self.alone_s: list[float] = []
        self.step_cpu_s: list[float] = []
        self.alone_cpu_s: list[float] = []
        self.interface_bytes, self.reported_bytes = 0, 0.0

    def measure(self, alone: tuple[float, float] | None, interface: Path) -> None:
        """Makes a step; ``alone`` are the seconds of one without communication beside it, if one was made."""
        if alone is not None:
            self.alone_s.append(alone[0])
            self.alone_cpu_s.append(alone[1])
        dist.barrier()
        before, reported, waited_s = _sent(interface), self._reported(), self._waited()
        step_s, step_cpu_s = _timed(self.step)
        self.step_s.append(step_s)
        self.step_cpu_s.append(step_cpu_s)
        self.waited_s.append(self._waited() - waited_s)
        dist.barrier()
        time.sleep(0.02)  # what the kernel still holds
        self.interface_bytes += _sent(interface) - before
        self.reported_bytes += self._reported() - reported

    def row(self) -> dict[str, Any]:
        """Returns the figures."""
        return {
            "step_s": self.step_s,
            "alone_s": self.alone_s,
            "step_cpu_s": self.step_cpu_s,
            "alone_cpu_s": self.alone_cpu_s,
            "interface_bytes": self.interface_bytes,
            "reported_bytes": self.reported_bytes,
            "waited_s": self.waited_s,
            "memory_bytes": self.memory_bytes,
        }


def _timed(step: Step) -> tuple[float, float]:
    """Returns the seconds of a step, and the processor time of all threads in it."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - began_s, time.process_time() - began_cpu_s


def _sent(interface: Path) -> int:
    return int((interface / "tx_bytes").read_text())


def bare(model: nn.Module, images: Tensor, labels: Tensor, *, fused: bool = False) -> Step:
    """Returns a step of torch's own, with its default AdamW or the fused one that ours has."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)

    def step() -> None:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()

    return step


def ours(layout: str, scheme: str, images: Tensor, labels: Tensor) -> Case:
    """Returns a step of our loop without the moving average, which torch's step lacks."""
    how = WorkerSettings(layout=layout, scheme=scheme, batch=dist.get_world_size() * len(images), warm_up_steps=0)
    workers = Workers(how, torch.device("cpu"), Path(tempfile.mkdtemp()), lambda *_: None)
    model = network()
    run = start_run(model, parameter_groups(model, lambda _: 1e-3), strategy=workers)

    def loss(module: nn.Module, _: None) -> Tensor:
        return F.cross_entropy(module(images), labels)

    def step() -> None:
        total = workers.forward(run, loss, None)
        run.optimizer.zero_grad(set_to_none=True)
        workers.backward(run, total)
        workers.clip(run, GRADIENT_NORM)
        run.optimizer.step()
        workers.step_ended(run)
        run.step += 1

    def waited() -> float:
        return sum(each.waited_s for each in workers.meter.steps)

    return Case(step, workers._bytes_sent, waited, ROUNDS if scheme == "local" else 0)


def set_rate(interface: str, rate_mbit: float) -> None:
    """Shapes what this end sends, at both ends."""
    namespaces.set_rate(interface, rate_mbit)
    dist.barrier()


def found_rate(model: nn.Module, alone_cpu_s: float) -> float:
    """Returns the rate in Mbit/s at which torch's DDP waits for the wanted share of a step.

    It follows from processor time, so that what else the machine does does not change it: two workers send four bytes
    a value, all but the last bucket beside the backward pass.
    """
    waited_s = SHARE / (1 - SHARE) * alone_cpu_s
    last, hidden_s = last_share_of(model, BUCKET_MB * 2**20), BACKWARD * alone_cpu_s
    link_s = max(waited_s, min(waited_s / last, waited_s + hidden_s * (1 - last)))
    return sum(each.nbytes for each in model.parameters()) * 8 / link_s / 1e6


def message_s() -> float:
    """Returns the seconds of exchanging an empty message."""
    rows = torch.zeros((dist.get_world_size(), 1))
    found = torch.empty_like(rows)
    return statistics.median(_timed(lambda: dist.all_to_all_single(found, rows))[0] for _ in range(20))


def _added(make: Callable[[], Case]) -> Case:
    """Returns a case after its warm-up, with the resident memory that it has added to the process."""
    before = _resident()
    case = make()
    for _ in range(WARM_UP):
        case.step()
    case.memory_bytes = _resident() - before
    return case


def _resident() -> int:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what glibc keeps of freed memory is not the network's
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(rate: float, rank: int, workers: int, interface: str) -> None:
    """Measures every case, and prints one line of JSON; with a rate of 0 the one of `found_rate`."""
    join(rank, workers)
    with kept_pages():  # as in the training loop
        _measure(rate, rank, workers, interface)
    leave()


def _measure(rate: float, rank: int, workers: int, interface: str) -> None:
    images = torch.randn((BATCHES[-1], 3, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(rank))
    labels = torch.arange(BATCHES[-1]) % TYPES
    batches = {str(each): alone_cpu(images[:each], labels[:each], workers) for each in BATCHES}
    images, labels = images[: BATCHES[0]], labels[: BATCHES[0]]
    alone, alone_fused = (bare(network(), images, labels, fused=fused) for fused in (False, True))
    nothing: Callable[[], float] = lambda: 0.0  # noqa: E731  # torch reports none
    set_rate(interface, 10_000)
    ddp = bare(DistributedDataParallel(network()), images, labels)
    cases = {"torch ddp": _added(lambda: Case(ddp, nothing, nothing, 0))}
    for name, how in (CASES if workers == 2 else FEW).items():
        cases[name] = _added(functools.partial(ours, *how, images, labels))
    set_rate(interface, rate or batches[str(BATCHES[0])]["rate_mbit"])
    counters = Path("/sys/class/net") / interface / "statistics"
    message = message_s()
    for number in range(max(each.steps for each in cases.values())):
        pair = [_timed(step) for step in (alone, alone_fused)] if number < STEPS else [None, None]
        for name, case in cases.items():
            if number < case.steps:
                case.measure(pair[name != "torch ddp"], counters)
    at_rates = {}
    for slow in SLOW_MBIT if workers == 2 else ():
        set_rate(interface, slow)
        at_rates[str(slow)] = {name: 1e3 * _timed(cases[name].step)[0] for name in SLOW_CASES}
    content = {
        "network": f"torchvision's {NETWORK}, {TYPES} types, {BATCHES[0]} pictures of {SIDE_PX} px a worker",
        "values": sum(each.numel() for each in network().parameters()),
        "batches": batches,
        "message_s": message,
        "at_rates": at_rates,
        "load": os.getloadavg()[0],
        "cases": {name: case.row() for name, case in cases.items()},
    }
    set_rate(interface, 10_000)
    print(json.dumps(content), flush=True)


def alone_cpu(images: Tensor, labels: Tensor, workers: int) -> dict[str, float]:
    """Returns the processor time of a step without communication, and the rate that belongs to it."""
    found = {}
    for name, fused in (("plain_cpu_ms", False), ("alone_cpu_ms", True)):
        step = bare(network(), images, labels, fused=fused)
        step()
        seconds = torch.tensor(statistics.median(_timed(step)[1] for _ in range(3)), dtype=torch.float64)
        dist.all_reduce(seconds)
        found[name] = 1e3 * float(seconds) / workers
    return found | {"rate_mbit": found_rate(network(), found["plain_cpu_ms"] / 1e3)}


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
