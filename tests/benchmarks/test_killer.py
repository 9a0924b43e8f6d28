"""The benchmark that kills workers counts each kill, whatever it has cost."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.converters.training.kills import Killer
from lineside_converters.training.progress import TrainingProgress

EPOCH_STEPS = 10


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def at(step: int) -> TrainingProgress:
    return TrainingProgress(
        epoch=step // EPOCH_STEPS,
        step=step,
        steps=3 * EPOCH_STEPS,
        loss=1.0,
        learning_rate=0.1,
        elapsed_s=1.0,
        remaining_s=1.0,
        held={},
    )


@pytest.mark.parametrize(("resumed", "lost"), [(10, 6), (15, 1), (16, 0), (18, 0)])
def test_a_kill_counts_also_where_it_lost_no_step(worker: subprocess.Popen[bytes], resumed: int, lost: int) -> None:
    killer = Killer(kills=1)
    killer.workers({0: worker.pid})
    killer.progress(at(5))
    assert worker.poll() is None  # the first epoch is left alone
    killer.progress(at(15))
    assert worker.wait(60) == -signal.SIGKILL
    killer.progress(at(16))  # it was sent before the kill: no resumption
    assert killer.lost_steps == []
    killer.workers({0: worker.pid})
    killer.progress(at(resumed))
    assert killer.lost_steps == [lost]
    killer.progress(at(25))  # a second kill would find no such process
    assert killer.lost_steps == [lost]
