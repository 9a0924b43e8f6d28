"""Which checkpoints are whole: on disk, on an fsspec file system that isn't this machine's, and on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("pyarrow", reason="the ray extra is not installed")
pytest.importorskip("fsspec", reason="the ray extra is not installed")

import fsspec

from lineside.cli import main
from lineside_converters.loading.training_run import FACTS
from lineside_converters.training.distributed.config import ClusterConfig
from lineside_converters.training.distributed.driver import train_on_ray, write_result
from lineside_converters.training.distributed.storage import contents, file_system, last_whole, write_list
from lineside_converters.training.segmentation.config import SegmenterConfig
from lineside_runtime.errors import InputNotFoundError, TrainingError
from tests.peers.sftp import Served

pytestmark = pytest.mark.torch
NAMES = ("run-1", "run-2")


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A folder, and fsspec's file system in memory, that lists folders as an object store does."""
    yield file_system(str(tmp_path / "kept") if request.param == "disk" else "memory://kept")
    fsspec.filesystem("memory").rm("/kept", recursive=True) if request.param == "memory" else None


def put(place: tuple[Any, str], folder: str, name: str, content: bytes) -> None:
    filesystem, root = place
    filesystem.create_dir(f"{root}/{folder}")
    with filesystem.open_output_stream(f"{root}/{folder}/{name}") as stream:
        stream.write(content)


def checkpoint(place: tuple[Any, str], folder: str, tmp_path: Path, *, step: int, world: int = 2) -> None:
    """Keeps a checkpoint as two workers do."""
    for rank in range(world):
        own = tmp_path / folder.replace("/", "-") / str(rank)
        own.mkdir(parents=True)
        for name in [f"worker-{rank}.pt", *(["checkpoint.pt"] if rank == 0 else [])]:
            (own / name).write_bytes(f"{name} of {step}".encode())
        write_list(own, rank=rank, step=step, world=world)
        for each in own.iterdir():
            put(place, folder, each.name, each.read_bytes())


def test_the_last_whole_one_is_taken_whatever_lies_after_it(place: tuple[Any, str], tmp_path: Path) -> None:
    filesystem, root = place
    assert last_whole(filesystem, root, NAMES) is None
    checkpoint(place, "run-1/checkpoint_2026-11-25_10-00", tmp_path, step=20)
    checkpoint(place, "run-1/checkpoint_2026-11-25_10-01", tmp_path, step=40)
    whole = last_whole(filesystem, root, NAMES)
    assert whole is not None and whole.endswith("10-01")
    assert contents(filesystem, whole)["checkpoint.pt"] == b"checkpoint.pt of 40"
    assert not [name for name in contents(filesystem, whole) if name.startswith("files-")]

    put(place, "run-1", "checkpoint_manager_snapshot.json", b'{"cut o')  # Ray's own book
    assert last_whole(filesystem, root, NAMES) == whole
    cut = "run-1/checkpoint_2026-11-25_10-02"
    checkpoint(place, cut, tmp_path, step=60)
    put(place, cut, "checkpoint.pt", b"checkpoint.pt o")  # half of it
    assert last_whole(filesystem, root, NAMES) == whole
    alone = "run-2/checkpoint_2026-11-25_10-03"
    checkpoint(place, alone, tmp_path, step=60)
    filesystem.delete_file(f"{root}/{alone}/files-1.json")  # the other worker had not got to it
    assert last_whole(filesystem, root, NAMES) == whole
    damaged = "run-2/checkpoint_2026-11-25_10-04"
    checkpoint(place, damaged, tmp_path, step=80)
    put(place, damaged, "files-1.json", b'{"step": 80, "wor')
    assert last_whole(filesystem, root, NAMES) == whole
    mixed = "run-2/checkpoint_2026-11-25_10-05"
    checkpoint(place, mixed, tmp_path, step=80)
    put(place, mixed, "files-1.json", b'{"step": 60, "world": 2, "files": {}}')
    assert last_whole(filesystem, root, NAMES) == whole

    checkpoint(place, "run-2/checkpoint_2026-11-25_10-06", tmp_path, step=100)
    later = last_whole(filesystem, root, NAMES)
    assert later is not None and later.endswith("run-2/checkpoint_2026-11-25_10-06")


def test_a_connection_that_breaks_in_a_file_leaves_only_whole_ones(tmp_path: Path) -> None:
    sshfs = pytest.importorskip("sshfs", reason="sshfs is not installed")
    import asyncssh

    with Served(tmp_path / "served", "checkpoint.pt", "3") as server:
        url = f"sftp://anybody@127.0.0.1:{server.port}/kept"
        for minute in (0, 1):
            checkpoint(file_system(url), f"run-1/checkpoint_10-0{minute}", tmp_path, step=20 * (minute + 1))
        with pytest.raises((OSError, asyncssh.Error)):
            checkpoint(file_system(url), "run-1/checkpoint_10-02", tmp_path, step=60)
        assert "cut at" in server.said
        sshfs.SSHFileSystem.clear_instance_cache()  # as in another process
        filesystem, root = file_system(url)
        whole = last_whole(filesystem, root, NAMES)
        assert whole is not None and whole.endswith("10-01")
        assert contents(filesystem, whole)["checkpoint.pt"] == b"checkpoint.pt of 40"
        checkpoint((filesystem, root), "run-2/checkpoint_10-03", tmp_path, step=60)
        later = last_whole(filesystem, root, NAMES)
        assert later is not None and later.endswith("10-03")
        sshfs.SSHFileSystem.clear_instance_cache()
    assert (tmp_path / "served/kept/run-1/checkpoint_10-02").is_dir()


def test_pyarrows_own_serves_where_fsspecs_package_is_missing_and_an_unknown_protocol_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(TrainingError, match="nothing here reaches gopher://"):
        file_system("gopher://somewhere/runs")
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    filesystem, path = file_system("s3://bucket/runs?region=eu-central-1")
    assert (filesystem.type_name, path) == ("s3", "bucket/runs")


def test_a_client_without_storage_and_a_run_that_is_none_are_said_before_ray_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "segmenter", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--workers", "2"]
    assert main([*words, "--address", "ray://127.0.0.1:1"]) != 0
    said = capsys.readouterr().err
    assert "without --storage" in said and "--address auto" in said and not (tmp_path / "run").exists()
    settings = SegmenterConfig(data=(tmp_path,), out=tmp_path / "run", resume=True)
    with pytest.raises(InputNotFoundError, match="holds no run of several workers"):
        train_on_ray("segmenter", settings, ClusterConfig(workers=2), lambda _: None)


def test_a_result_of_which_half_came_home_is_no_finished_run(tmp_path: Path) -> None:
    (tmp_path / "float.onnx").mkdir()  # nothing can be written over it
    with pytest.raises(OSError):
        write_result({FACTS: b"{}", "float.onnx": b"", "best.pt": b""}, tmp_path)
    assert not (tmp_path / FACTS).exists()
