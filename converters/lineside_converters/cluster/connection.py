"""Connection to Ray: a cluster that runs, or one that is started on this machine and ended afterwards."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from typing import Any

from lineside_runtime.errors import ClusterError

log = logging.getLogger("lineside.cluster")

CLIENT = "ray://"
"""Prefix of an address of Ray's client, whose machine is no node."""

OBJECT_STORE_BYTES = 200 << 20
"""Of a Ray that is started here: nothing large goes through it."""

START_S, START_TRIES = "60", 3
"""Seconds that a start of Ray on this machine may take, and how often it is tried: on a busy machine Ray's node process
gives up if its agent has not named its ports within 15 seconds, which can't be set (`WaitForDashboardAgentPorts`)."""


def connect(address: str, workers: int, stack: ExitStack) -> Any:
    """Joins the cluster, or starts Ray on this machine and ends it with the stack.

    Args:
        address: ``auto``, ``host:port`` or ``ray://host:port``; empty starts Ray on this machine.
        workers: Cores that are needed at least; a Ray that is started here offers so many, also on fewer real ones.

    Returns:
        The module ``ray``. One that is connected already stays as it is.

    Raises:
        ClusterError: Ray can't be reached or started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", START_S)
    import ray

    if ray.is_initialized():
        return ray
    try:
        if address:
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
        else:
            _start(ray, workers)
    except Exception as error:  # Ray says with a bare one that its processes took too long to start
        raise ClusterError(
            "Ray cannot be reached" if address else "Ray cannot be started",
            actual=error,
            action="`ray status` on the head node says whether it runs; --address takes host:port or ray://host:port. "
            "Where the cluster asks for a token: RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.",
        ) from error
    stack.callback(ray.shutdown)
    return ray


def _start(ray: Any, workers: int, tries: int = START_TRIES) -> None:
    try:
        ray.init(
            num_cpus=max(workers, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except Exception as error:
        if tries == 1:
            raise
        log.warning("Ray did not start, trying again: %s", error)
        ray.shutdown()
        _start(ray, workers, tries - 1)
