"""Processes of one gloo group on this machine."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from tests.peers.waiting import free_port


def together(work: Callable[..., None], *arguments: Any, world: int = 2) -> None:
    """Runs a module-level function in processes of one group, each on one thread; rank 0's own output counts.

    They are forked from a server that has imported torch and the function's module, which takes 5 s of processor time.
    """
    port = free_port()
    multiprocessing.get_context("forkserver").set_forkserver_preload([work.__module__])
    start_processes(_run, args=(work, arguments, world, port), nprocs=world, start_method="forkserver")  # type: ignore[no-untyped-call]


def _run(rank: int, work: Callable[..., None], arguments: tuple[Any, ...], world: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    join(rank, world)
    work(*arguments)
    leave()


def join(rank: int, world: int) -> None:
    """Joins the group that the environment names."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)


def leave() -> None:
    """Leaves once all are done, without ending in a race of destructors."""
    dist.barrier()
    sys.stdout.flush()
    dist.destroy_process_group()
