"""Divide the frames of an evaluation among tasks, each of which opens the bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from lineside_converters.cluster.tasks import TaskRunner
from lineside_converters.data.calibration_data import AnnotatedFrame, AnnotatedFrames
from lineside_converters.evaluation.bundle_accuracy import find
from lineside_converters.evaluation.bundle_runner import EvaluationRun
from lineside_runtime.config import GPU_RATIO, Config
from lineside_runtime.progress import CountListener
from lineside_runtime.session import Session

T = TypeVar("T")
R = TypeVar("R")

RunFrames = Callable[[Session, Sequence[T], CountListener | None], list[R]]
"""Runs frames through a session, and returns a result for each."""


def run_in_tasks(
    session: Session,
    run: RunFrames[T, R],
    frames: Sequence[T],
    tasks: TaskRunner,
    on_progress: CountListener | None = None,
) -> list[R]:
    """Returns the results of all frames in their order: by the session, or by tasks with sessions of their own.

    Args:
        session: Opened here; tasks open its bundle by the same path, with the same variant.
        run: A function of a module, which a task can import.
        frames: To run; each task gets some that follow one another.
        tasks: Of one process, or of a cluster.
        on_progress: Told how many frames of how many are done.
    """
    if tasks.workers == 1:
        return run(session, frames, on_progress)
    work = partial(_run_part, session.bundle.path.resolve(), _config_of(session), run, frames)
    done = 0

    def count(_: int, found: Sequence[R]) -> None:
        nonlocal done
        done += len(found)
        if on_progress is not None:
            on_progress(done, len(frames))

    parts = tasks.map(work, tasks.parts(len(frames)), on_done=count)
    return [each for part in parts for each in part]


def _config_of(session: Session) -> Config:
    """Returns a configuration that serves the variant which the session serves."""
    return msgspec.structs.replace(session.config, variant=session.variant)


def _run_part(bundle: Path, config: Config, run: RunFrames[T, R], frames: Sequence[T], part: range) -> list[R]:
    if config.gpu_ratio == GPU_RATIO:
        config = msgspec.structs.replace(config, gpu_ratio=GPU_RATIO)  # the object itself, see there
    with Session(bundle, config) as session:
        return run(session, frames[part.start : part.stop], None)


def find_in_tasks(
    session: Session, frames: AnnotatedFrames, tasks: TaskRunner, on_progress: CountListener | None
) -> tuple[list[AnnotatedFrame], list[EvaluationRun]]:
    """Returns what `find` returns of all frames."""
    found = run_in_tasks(session, _find, frames, tasks, on_progress)
    return [truth for truth, _ in found], [judged for _, judged in found]


def _find(
    session: Session, frames: Sequence[AnnotatedFrame], on_progress: CountListener | None
) -> list[tuple[AnnotatedFrame, EvaluationRun]]:
    return list(zip(*find(session, frames, total=len(frames), on_progress=on_progress), strict=True))
