"""The step of NCCL: two workers that sum tensors and average gradients."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from benchmarks.gpu.steps import Case, Figures, StepError
from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.gradients import SCHEMES
from lineside_converters.training.distributed.scheme_selection import time_schemes
from lineside_models.networks.classifier import resnet18

RANKS = 2
SIZES_MB = (1, 16, 128)
EXCHANGES = 20
CLASSES = 12


def nccl(case: Case) -> Figures:
    """Sums tensors over two workers, and averages gradients by each scheme of `train --gpus`.

    NCCL takes one rank of a host a GPU (https://github.com/NVIDIA/nccl/issues/418). On one GPU each rank is therefore
    given a host id of its own, so that NCCL goes through sockets over the loopback: the calls are the same, and the
    bandwidth is not that of two GPUs. Without a GPU the workers use gloo, and nothing of it is reported.
    """
    answer, rendezvous = case.folder / "nccl-rank0.json", case.folder / "nccl-rendezvous"
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    start_method = "spawn" if case.gpus else "forkserver"  # the server has imported torch, once for both
    arguments = case.gpus, str(rendezvous), str(answer)
    start_processes(_rank, arguments, nprocs=RANKS, start_method=start_method)  # type: ignore[no-untyped-call]
    found: Figures = json.loads(answer.read_bytes())
    wrong = [name for name, right in found.pop("right").items() if not right]
    if wrong:
        raise StepError(f"wrong sums: {', '.join(wrong)}", found)
    if not case.gpus:
        return {"workers": RANKS, "checked_with": "gloo"}
    return found


def _rank(rank: int, gpus: int, rendezvous: str, answer: str) -> None:
    if gpus == 1:
        os.environ.update(NCCL_HOSTID=f"lineside-{rank}", NCCL_SOCKET_IFNAME="lo", NCCL_IB_DISABLE="1")
    device = torch.device("cuda", rank % gpus) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "nccl" if gpus else "gloo"
    dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=RANKS)
    right: dict[str, bool] = {}
    sums: dict[str, Any] = {}
    for size_mb in SIZES_MB if gpus else SIZES_MB[:1]:
        tensor = torch.full((size_mb * 2**18,), float(rank + 1), device=device)
        dist.all_reduce(tensor)
        right[f"{size_mb} MB"] = bool((tensor == sum(range(1, RANKS + 1))).all())
        seconds = _timed(functools.partial(dist.all_reduce, tensor), device, EXCHANGES if gpus else 1)
        moved = 2 * (RANKS - 1) / RANKS * tensor.nbytes
        sums[f"{size_mb} MB"] = {"ms": round(seconds * 1e3, 3), "bus_gb_per_s": round(moved / seconds / 1e9, 3)}
    exchange = Exchange()
    schemes = time_schemes(resnet18(CLASSES).to(device), exchange, tuple(SCHEMES))
    exchange.close()
    if rank == 0:
        found = {
            "workers": RANKS,
            "gpus": gpus,
            "transport": "between GPUs" if gpus > 1 else "sockets over loopback, both workers on one GPU",
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if gpus else "",  # type: ignore[no-untyped-call]
            "all_reduce": sums,
            "scheme_ms": {name: round(each.averaging_s * 1e3, 3) for name, each in schemes.items()},
            "right": right,
        }
        Path(answer).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _timed(call: Callable[[], object], device: torch.device, times: int) -> float:
    """Returns the mean seconds of a call, which the device has finished."""
    call()
    _finish(device)
    began_s = time.perf_counter()
    for _ in range(times):
        call()
    _finish(device)
    return (time.perf_counter() - began_s) / times


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
