"""Driver of training on Ray: starts or joins Ray, follows the workers, and fetches the result.

Ray places the workers, starts them again from the last checkpoint when one dies, and keeps checkpoints. The call of
`TorchTrainer.fit` is itself a task of the cluster, so that it is the same through a Ray client, whose machine is no
part of it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lineside_converters.cluster.connection import CLIENT, connect
from lineside_converters.loading.training_run import FACTS
from lineside_converters.training.distributed.config import ClusterConfig
from lineside_converters.training.distributed.cost import CostReport, WorkerCost, report
from lineside_converters.training.distributed.job import TrainingJob, plain_settings, run_worker
from lineside_converters.training.distributed.report import write_pages
from lineside_converters.training.distributed.storage import contents, file_system, last_whole
from lineside_converters.training.monitoring.curves import CURVES
from lineside_converters.training.progress import OnProgress
from lineside_converters.training.run_folder import check_run_folder
from lineside_converters.training.settings import TrainingSettings
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import InputNotFoundError, LinesideError, TrainingError
from lineside_runtime.files import write_atomic

STATE = "ray.json"
"""File in a run's folder that names the place of its checkpoints, so that the run can be resumed."""

ON_HEAD = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
"""Resources of the head node, which outlives every other node of the cluster."""

RAY_SECONDS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300"}
"""Ray's own settings: a checkpoint counts once Ray has looked, which it does every two seconds otherwise."""

RESIZED_EVERY_S = 10.0
"""How often Ray looks for room for more workers, where their number may change."""

LOOKED_EVERY_S = 0.2

WAITED_S = 30.0
"""How long no worker has begun when the free cores are told, and how often again: Ray itself waits without a word."""

log = logging.getLogger("lineside.training")


class ClusterPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Place of a run's checkpoints.

    Attributes:
        names: Ray's names of the run, one for each start or resumption.
        storage: Folder or URL.
    """

    names: tuple[str, ...]
    storage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterResult:
    """Result of training on several workers.

    Attributes:
        result: Result of the kind's trainer as plain values; its files are in the run's folder.
        cost: Cost; also ``report.json`` and ``report.html``.
    """

    result: dict[str, Any]
    cost: CostReport


@dataclass(slots=True)
class WorkerMessages:
    """Messages of the workers.

    Attributes:
        starts: Number of starts of the first worker.
        world: Workers that run now.
        pids: Process ids of the running workers, by rank.
        costs: By rank.
        failed: An error that a retry would not solve.
    """

    starts: int = 0
    world: int = 0
    pids: dict[int, int] = field(default_factory=dict)
    costs: dict[int, WorkerCost] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    failed: LinesideError | None = None


def train_on_ray(
    kind: str,
    settings: TrainingSettings,
    cluster: ClusterConfig,
    on_progress: OnProgress,
    *,
    on_workers: Callable[[dict[int, int]], None] = lambda _: None,
) -> ClusterResult:
    """Trains on several workers; the run's folder then holds the files of a training and the cost report.

    Args:
        kind: ``detector``, ``classifier`` or ``segmenter``.
        settings: Of the training; with ``resume`` the run in its folder is resumed. Every node must reach the
            data by the same path.
        on_progress: Called about once a second.
        on_workers: Called with the process of every worker, by rank, each time that all have begun.

    Raises:
        TrainingError: The workers failed more often than ``max_failures``, or as for training alone.
        InputError: As for training alone.
        ClusterError: Ray can't be reached or started.
        DatasetError: As for training alone.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    _check_reach(cluster)
    check_run_folder(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    place = _place(settings, cluster)
    job = TrainingJob(kind=kind, settings=plain_settings(settings), cluster=cluster, out=str(settings.out))
    with ExitStack() as stack:
        ray = connect(cluster.address, cluster.workers, stack)
        from ray.util.queue import Queue

        queue = Queue(actor_options=dict(ON_HEAD))
        stack.callback(queue.shutdown, force=True)
        task = ray.remote(_fit).options(**ON_HEAD, max_retries=0)
        running = task.remote(msgspec.json.encode(job), queue, place, cluster)
        messages = _follow(ray, running, queue, settings.out, on_progress, on_workers, cluster)
        write_result(_end(ray, running), settings.out)
    if messages.result is None or len(messages.costs) < messages.world:
        raise TrainingError("the workers ended without a result", actual=f"reports of {sorted(messages.costs)}")
    epochs = settings.epochs
    cost = report([messages.costs[rank] for rank in range(messages.world)], epochs=epochs, restarts=messages.starts - 1)
    write_pages(settings.out, cost)
    return ClusterResult(result=messages.result, cost=cost)


def _check_reach(cluster: ClusterConfig) -> None:
    """Refuses checkpoints on the machine of a Ray client, which is no part of the cluster."""
    if cluster.address.startswith(CLIENT) and not cluster.storage:
        raise TrainingError(
            f"--address {CLIENT} without --storage",
            expected="a folder or URL that every node reaches",
            actual="checkpoints in --out, which is on this machine",
            action="Give --storage, or run the command on a node of the cluster with --address auto.",
        )


def _place(settings: TrainingSettings, cluster: ClusterConfig) -> ClusterPlace:
    """Returns the place of the run's checkpoints; a resumed run keeps it under a new name."""
    path = settings.out / STATE
    known = ClusterPlace(names=(), storage=_absolute(cluster.storage or str(settings.out / "ray")))
    if settings.resume:
        try:
            known = decode_json(path.read_bytes(), type=ClusterPlace)
        except OSError as error:
            raise InputNotFoundError(
                f"{settings.out} holds no run of several workers", action="Start it without --resume."
            ) from error
    name = f"{settings.out.resolve().name}-{time.time_ns():x}"
    place = ClusterPlace(names=(*known.names, name), storage=known.storage)
    write_atomic(path, msgspec.json.encode(place))
    return place


def _absolute(storage: str) -> str:
    return storage if "://" in storage else str(Path(storage).expanduser().resolve())


def _fit(job: bytes, queue: Any, place: ClusterPlace, cluster: ClusterConfig) -> dict[str, bytes]:
    """Runs the trainer; a task of the cluster. Returns the files of the result."""
    from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    for variable, seconds in RAY_SECONDS.items():
        os.environ.setdefault(variable, seconds)
    filesystem, path = file_system(place.storage)
    begin = last_whole(filesystem, path, place.names[:-1])
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"job": job, "tell": queue, "begin": begin and Checkpoint(begin, filesystem)},
        scaling_config=ScalingConfig(
            num_workers=(cluster.min_workers, cluster.workers) if cluster.min_workers else cluster.workers,
            use_gpu=cluster.gpus,
            **({"elastic_resize_monitor_interval_s": RESIZED_EVERY_S} if cluster.min_workers else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if cluster.gpus else "gloo"),
        run_config=RunConfig(
            name=place.names[-1],
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    kept = trainer.fit().checkpoint
    return {} if kept is None else contents(kept.filesystem, kept.path)


def _follow(
    ray: Any,
    running: Any,
    queue: Any,
    out: Path,
    on_progress: OnProgress,
    on_workers: Callable[[dict[int, int]], None],
    cluster: ClusterConfig,
) -> WorkerMessages:
    """Handles messages until the task ends, or a worker reports an error that a retry would not solve."""
    messages = WorkerMessages()
    ended = False
    begin_s = told_s = time.monotonic()
    while not ended and messages.failed is None:
        ended = bool(ray.wait([running], timeout=LOOKED_EVERY_S)[0])
        for word, value in queue.get_nowait_batch(queue.qsize()):
            _handle(messages, word, value, out, on_progress)
            if word == "begun" and len(messages.pids) == messages.world:
                on_workers(dict(messages.pids))
        if not messages.starts and time.monotonic() - told_s > WAITED_S:
            told_s = time.monotonic()
            _tell_waiting(ray, cluster, told_s - begin_s)
    if messages.failed is not None:
        ray.cancel(running, force=True)
        raise messages.failed
    return messages


def _tell_waiting(ray: Any, cluster: ClusterConfig, waited_s: float) -> None:
    kind, name = ("GPU", "GPUs") if cluster.gpus else ("CPU", "cores")
    free, there = (found.get(kind, 0.0) for found in (ray.available_resources(), ray.cluster_resources()))
    log.warning(
        "no worker has begun for %.0f s: %d are needed, and %g of the cluster's %g %s are free",
        waited_s,
        cluster.min_workers or cluster.workers,
        free,
        there,
        name,
    )


def _handle(messages: WorkerMessages, word: str, value: Any, out: Path, on_progress: OnProgress) -> None:
    if word == "progress":
        on_progress(value)
    elif word == "page":
        write_atomic(out / CURVES, value)
    elif word == "cost":
        messages.costs[value[0]] = msgspec.convert(value[1], WorkerCost)
    elif word == "result":
        messages.result = value
    elif word == "failed":
        messages.failed = value
    elif word == "begun":
        if value["rank"] == 0:
            messages.starts += 1
        if value["rank"] in messages.pids or value["world"] != messages.world:
            messages.pids.clear()
            messages.costs.clear()
        messages.world = value["world"]
        messages.pids[value["rank"]] = value["pid"]
        log.info(
            "worker %d of %d begins%s",
            value["rank"],
            value["world"],
            " from the last checkpoint" if value["resumed"] else "",
        )


def _end(ray: Any, running: Any) -> dict[str, bytes]:
    """Returns the result's files, or raises why there are none."""
    try:
        found: dict[str, bytes] = ray.get(running)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, LinesideError):
            raise cause from error
        raise TrainingError(
            "training on Ray has failed",
            actual=str(error).strip().splitlines()[-1],
            action="--resume goes on from the last checkpoint; --max-failures says how many deaths are borne.",
        ) from error
    return found


def write_result(files: dict[str, bytes], out: Path) -> None:
    """Writes the result's files into the run's folder, ``training.json`` last: with it a run counts as finished."""
    if not files:
        raise TrainingError("Ray has kept no checkpoint")
    for name in sorted(files, key=lambda name: name == FACTS):
        write_atomic(out / name, files[name])
