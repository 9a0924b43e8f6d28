"""Real process groups: gloo between processes of this machine."""

from __future__ import annotations

import functools
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from tests.peers.waiting import free_port

PRELOADED = ("torch.distributed.fsdp", "lineside_converters.training.distributed.workers", __name__)
"""Imported once by the server that forks the processes: to import torch takes each 2 s of processor time."""


def together(work: Callable[..., Any], *arguments: Any, world: int = 2, **named: Any) -> list[Any]:
    """Runs a module-level function in processes of one gloo group, and returns what each returned, by rank."""
    work = functools.partial(work, **named)
    with tempfile.TemporaryDirectory() as scratch:
        port = free_port()
        multiprocessing.get_context("forkserver").set_forkserver_preload(list(PRELOADED))
        process = functools.partial(_run, work, arguments, world, port, scratch)
        start_processes(process, nprocs=world, start_method="forkserver")
        return [torch.load(Path(scratch) / str(rank), weights_only=False) for rank in range(world)]


def _run(work: Callable[..., Any], arguments: tuple[Any, ...], world: int, port: int, scratch: str, rank: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        torch.save(work(*arguments), Path(scratch) / str(rank))
        dist.barrier()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        dist.destroy_process_group()
