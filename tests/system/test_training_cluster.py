"""``lineside train … --workers 2`` on clusters, storages and after deaths as they are: all end in the same losses.

Each run has the same seed, and a step's batch follows from it: a run that was cut off and has gone on must show, epoch
by epoch, the losses of the one that nobody has touched.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray", reason="the ray extra is not installed")

from benchmarks.converters.training.kills import write_pictures
from tests.peers.sftp import Served
from tests.peers.waiting import wait_for
from tests.system.ray_cluster import Cluster, cluster

EPOCHS = 5
RUN_S = 600.0
pytestmark = pytest.mark.timeout(1200)


class Command:
    """``lineside train segmenter`` in a process of its own.

    Attributes:
        out: The run's folder.
    """

    def __init__(self, data: Path, out: Path, *words: str, environment: dict[str, str] | None = None) -> None:
        self.out, self._lines = out, list[str]()
        common = (
            f"--data {data} --out {out} --workers 2 --epochs {EPOCHS} --batch 6 --side 64 --channels 16 --threads 1"
        )
        common += " --evaluate-every 1 --gradients low-rank --sharding ddp --json"
        self._printed = out.with_suffix(".json")
        with self._printed.open("w") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lineside", "train", "segmenter", *common.split(), *words],
                env=environment or os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"},
                stdout=printed,
                stderr=subprocess.PIPE,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self._lines.extend(iter(stream.readline, ""))

    def said(self) -> str:
        """Returns what it has said so far."""
        return "".join(self._lines)

    def evaluated(self, epoch: int) -> bool:
        """Returns whether an epoch is over, or one after it; raises where the command has ended before."""
        assert self.process.poll() is None or self.process.returncode == 0, self.said()[-3000:]
        found = re.findall(r"^epoch (\d+) .* to go  \S", self.said(), re.MULTILINE)
        return bool(found) and int(found[-1]) >= epoch

    def end(self) -> dict[str, object]:
        """Waits for the end, and returns what it printed."""
        assert self.process.wait(RUN_S) == 0, self.said()[-3000:]
        self._reader.join()
        found: dict[str, object] = json.loads(self._printed.read_text())
        return found

    def losses(self) -> list[float]:
        """Returns the losses of every epoch."""
        facts = json.loads((self.out / "training.json").read_text())
        return [row["loss"] for row in facts["losses"]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("squares") / "data")


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    with cluster() as found:
        yield found


@pytest.fixture(scope="module")
def unbroken(data: Path, own: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run that nobody touches, on a cluster of two nodes that it finds by itself."""
    second = own.add()
    out = tmp_path_factory.mktemp("unbroken") / "run"
    run = Command(data, out, "--address", "auto", environment=own.environment)
    found = run.end()
    own.kill(second)
    assert found["restarts"] == 0 and found["workers"] == 2
    losses = run.losses()
    assert len(losses) == EPOCHS == len(set(losses))
    return losses


def test_a_cluster_that_is_found_by_itself_trains(unbroken: list[float]) -> None:
    assert unbroken[-1] < unbroken[0]


def test_a_node_that_dies_whole_costs_no_epoch_that_was_over(
    data: Path, own: Cluster, unbroken: list[float], tmp_path: Path
) -> None:
    second = own.add()
    run = Command(data, tmp_path / "run", "--address", own.address, environment=own.environment)
    wait_for(lambda: run.evaluated(1), RUN_S, every_s=0.2)
    own.kill(second)
    third = own.add()  # another machine takes its place
    found = run.end()
    own.kill(third)
    assert found["restarts"] == 1
    assert run.losses() == unbroken


def test_rays_client_trains_and_files_come_home(
    data: Path, own: Cluster, unbroken: list[float], tmp_path: Path
) -> None:
    second = own.add()
    words = ("--address", own.client, "--storage", str(tmp_path / "kept"))
    run = Command(data, tmp_path / "run", *words, environment=own.environment)
    found = run.end()
    own.kill(second)
    assert run.losses() == unbroken
    assert Path(str(found["onnx"])) == run.out / "float.onnx"
    assert (run.out / "float.onnx").stat().st_size > 100_000 and (run.out / "curves.html").exists()


def test_a_killed_command_is_gone_on_with(data: Path, unbroken: list[float], tmp_path: Path) -> None:
    first = Command(data, tmp_path / "run")
    wait_for(lambda: first.evaluated(1), RUN_S, every_s=0.2)
    started = psutil.Process(first.process.pid).children(recursive=True)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    wait_for(lambda: not any(_runs(each) and not _is_agent(each) for each in started), 120, every_s=0.2)
    for each in filter(_runs, started):
        each.kill()  # two agents of Ray's may stay, which train nothing
    assert not (tmp_path / "run" / "training.json").exists()
    second = Command(data, tmp_path / "run", "--resume")
    second.end()
    assert second.losses() == unbroken
    assert _starts(second.out) == 2


def test_a_storage_that_goes_away_in_a_checkpoint_leaves_only_whole_ones(
    data: Path, unbroken: list[float], tmp_path: Path
) -> None:
    pytest.importorskip("sshfs", reason="sshfs is not installed")
    with Served(tmp_path / "served", "checkpoint.pt", "3") as server:
        run = Command(data, tmp_path / "run", "--storage", f"sftp://anybody@127.0.0.1:{server.port}/runs")
        found = run.end()
        assert server.alive and "cut at" in server.said
    assert found["restarts"] == 1
    assert run.losses() == unbroken
    assert (run.out / "float.onnx").exists() and not (run.out / "ray").exists()
    kept = sorted((tmp_path / "served" / "runs").glob("*/checkpoint_*"))
    assert len(kept) >= 2


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_agent(process: psutil.Process) -> bool:
    try:
        return "Agent" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return True


def _starts(out: Path) -> int:
    return len(json.loads((out / "training.json").read_text())["starts"])
