"""Code of a worker: Ray Train calls `run_worker` in each process, after a failure from the last checkpoint."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist

from lineside_converters.training.checkpoints import TrainingRun
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.classification.trainer import ClassifierTrainer
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.trainer import DetectorTrainer
from lineside_converters.training.distributed.config import ClusterConfig
from lineside_converters.training.distributed.cost import WorkerCost
from lineside_converters.training.distributed.storage import write_list
from lineside_converters.training.distributed.workers import Workers, WorkerSettings, own_file
from lineside_converters.training.loop import BEST, CHECKPOINT
from lineside_converters.training.monitoring.curves import CURVES
from lineside_converters.training.progress import OnProgress, TrainingProgress
from lineside_converters.training.recommendation.config import RecommenderConfig
from lineside_converters.training.recommendation.trainer import RecommenderTrainer
from lineside_converters.training.segmentation.config import SegmenterConfig
from lineside_converters.training.segmentation.trainer import SegmenterTrainer
from lineside_converters.training.settings import USED, TrainingSettings
from lineside_converters.training.trainer import Trainer
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import LinesideError

TRAINERS: dict[str, tuple[type[TrainingSettings], type[Trainer[Any, Any, Any]]]] = {
    "detector": (DetectorConfig, DetectorTrainer),
    "classifier": (ClassifierConfig, ClassifierTrainer),
    "segmenter": (SegmenterConfig, SegmenterTrainer),
    "recommender": (RecommenderConfig, RecommenderTrainer),
}
"""Settings and trainer of each kind of model."""

TELL_EVERY_S = 1.0
_OF_THE_FIRST = (CHECKPOINT, BEST, CURVES, USED)


class TrainingJob(msgspec.Struct, frozen=True, kw_only=True):
    """Job of a worker.

    Attributes:
        settings: Of the training, as plain values.
        out: The run's folder on the driver, for the result.
    """

    kind: str
    settings: dict[str, Any]
    cluster: ClusterConfig
    out: str


def plain_settings(settings: TrainingSettings) -> dict[str, Any]:
    """Returns the settings with paths that hold wherever a worker runs; see `read_plain`."""
    values = {name: getattr(settings, name) for name in settings.__struct_fields__}
    values["data"] = [str(Path(each).resolve()) for each in values["data"]]
    if values.get("start") is not None:
        values["start"] = str(Path(values["start"]).resolve())
    found: dict[str, Any] = msgspec.to_builtins(values, enc_hook=str)
    return found


def read_plain(kind: str, values: dict[str, Any], out: Path, *, resume: bool = False) -> Any:
    """Returns the settings of a kind of model from plain values, with another folder.

    Args:
        resume: Whether the run in it is resumed.
    """
    settings = msgspec.convert(values, TRAINERS[kind][0], dec_hook=lambda of, value: of(value))
    return msgspec.structs.replace(settings, out=out, resume=resume, overwrite=False)


def run_worker(inputs: dict[str, Any]) -> None:
    """Trains as one of the workers that Ray started.

    Args:
        inputs: ``job``: a `TrainingJob` as JSON; ``tell``: the driver's queue, which takes pairs of a word and a value;
            ``begin``: Ray's checkpoint of an earlier driver to resume from, or ``None``.
    """
    import ray.train
    import ray.train.torch

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    job = decode_json(inputs["job"], type=TrainingJob)

    def send(word: str, value: Any) -> None:
        inputs["tell"].put((word, value))

    with tempfile.TemporaryDirectory(prefix="lineside-worker-") as scratch:
        out = Path(scratch) / "run"
        out.mkdir()
        resumed = _fetch(ray.train.get_checkpoint() or inputs["begin"], out)
        place = {"rank": dist.get_rank(), "world": dist.get_world_size(), "pid": os.getpid(), "resumed": resumed}
        send("begun", place)
        try:
            _train(job, out, resumed, ray.train.torch.get_device(), send)
        except LinesideError as error:
            send("failed", error)  # trying again would end so again
            raise


def _fetch(kept: Any, out: Path) -> bool:
    """Copies a checkpoint into the worker's folder, if there is one."""
    if kept is None:
        return False
    with kept.as_directory() as folder:
        shutil.copytree(folder, out, dirs_exist_ok=True)
    return True


def _train(job: TrainingJob, out: Path, resumed: bool, device: torch.device, send: Callable[[str, Any], None]) -> None:
    settings = read_plain(job.kind, job.settings, out, resume=resumed)
    worker_settings = WorkerSettings(
        layout=job.cluster.sharding,
        scheme=job.cluster.gradients,
        measured_shares=job.cluster.measured_shares,
        batch=settings.batch,
        memory_bytes=_smallest_memory(device),
        round_checkpoints=job.cluster.min_workers > 0,
    )

    def saved(run: TrainingRun, folder: Path, figures: dict[str, float]) -> None:
        _report(run, folder, figures, workers)
        if workers.rank == 0 and (folder / CURVES).exists():
            send("page", (folder / CURVES).read_bytes())

    workers = Workers(worker_settings, device, out, saved)
    trainer = TRAINERS[job.kind][1](settings, _progress_sender(send, workers.rank), workers)
    trainer.train()
    cost = workers.figures()
    if workers.rank == 0:
        result = trainer.finish()
        send("result", _driver_paths(msgspec.to_builtins(result, enc_hook=str), str(out), job.out))
    _report_end(out, cost, workers.rank)
    send("cost", (workers.rank, msgspec.to_builtins(cost)))


def _progress_sender(send: Callable[[str, Any], None], rank: int) -> OnProgress:
    sent_s = 0.0

    def on_progress(progress: TrainingProgress) -> None:
        nonlocal sent_s
        now_s = time.monotonic()
        if rank == 0 and (progress.held or now_s - sent_s >= TELL_EVERY_S):
            sent_s = now_s
            send("progress", progress)

    return on_progress


def _report(run: TrainingRun, out: Path, figures: dict[str, float], worker: Workers) -> None:
    """Reports a checkpoint to Ray: the first worker's files, and each worker's own state."""
    import ray.train

    names = [own_file(out, worker.rank).name, *(_OF_THE_FIRST if worker.rank == 0 else ())]
    with tempfile.TemporaryDirectory(prefix="lineside-checkpoint-") as folder:
        for name in names:
            if (out / name).exists():
                shutil.copy2(out / name, folder)
        write_list(Path(folder), rank=worker.rank, step=run.step, world=worker.world)
        ray.train.report({"step": run.step, **figures}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _report_end(out: Path, cost: WorkerCost, rank: int) -> None:
    """Reports the result to Ray as the last checkpoint."""
    import ray.train

    ours = ray.train.Checkpoint.from_directory(str(out)) if rank == 0 else None
    ray.train.report({"step": cost.steps, "finished": True}, checkpoint=ours)


def _driver_paths(result: dict[str, Any], here: str, there: str) -> dict[str, Any]:
    """Returns a result with the paths of its files on the driver."""
    return {
        name: value.replace(here, there, 1) if isinstance(value, str) and value.startswith(here) else value
        for name, value in result.items()
    }


def _smallest_memory(device: torch.device) -> int:
    """Returns the smallest memory of a worker in bytes; without a GPU, what programs can have, the page cache too."""
    if device.type == "cuda":
        mine = torch.cuda.mem_get_info(device)[1]
    else:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
        meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        mine = 1024 * int(meminfo["MemAvailable"].split()[0]) // max(1, local)
    smallest = torch.tensor(float(mine), dtype=torch.float64, device=device)
    dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
    return int(smallest)
