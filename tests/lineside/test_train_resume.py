"""A training run isn't written over unasked, goes on with its own data and network only, and says how after Ctrl-C."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from lineside.cli import main
from lineside.commands.train.training import resumable
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.classification.trainer import train_classifier
from lineside_converters.training.progress import TrainingProgress
from lineside_runtime.errors import DiskFullError, TrainingError
from tests.lineside.test_good_class import train, write_squares
from tests.peers.waiting import wait_for

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished")
    assert train(write_squares(place / "parts", {"bad": 10, "good": 240}), place / "run", "--epochs", "1") == 0
    return place


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    for name in ("parts", "run"):
        shutil.copytree(finished / name, tmp_path / name)
    return tmp_path / "run"


def states(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_a_run_is_not_written_over_unasked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = states(run)
    assert train(run.parent / "parts", run) == 1
    said = capsys.readouterr().err
    assert "holds a training run" in said and "--resume" in said and "--overwrite" in said
    assert states(run) == before
    assert train(run.parent / "parts", run, "--overwrite", "--resume") == 1
    assert states(run) == before
    assert train(run.parent / "parts", run, "--overwrite", "--epochs", "1", "--seed", "5") == 0
    assert states(run)["best.pt"] != before["best.pt"]


def test_a_run_that_begins_again_leaves_no_result_of_the_one_before(run: Path, tmp_path: Path) -> None:
    other = write_squares(tmp_path / "others", {"bad": 10, "good": 240})
    assert train(other, run, "--overwrite", "--learning-rate", "5") == 1  # refused before anything is lost
    assert (run / "float.onnx").exists()
    assert train(tmp_path / "nowhere", run, "--overwrite") == 1
    again = ["train", "classifier", "--data", str(run.parent / "parts"), "--out", str(run), "--overwrite", "--start"]
    assert main([*again, str(run / "config.toml")]) == 1
    assert (run / "float.onnx").exists()
    before = states(run)["best.pt"]
    assert main([*again, str(run)]) == 1  # of another side
    assert states(run)["best.pt"] == before
    short = ["--epochs", "1", "--batch", "8", "--threads", "1", "--side", "32"]
    assert main([*again, str(run), *short]) == 0  # read before it is deleted
    assert states(run)["best.pt"] != before and (run / "float.onnx").exists()


def test_a_run_goes_on_with_its_own_data_and_network_only(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    write_squares(run.parent / "others", {"dent": 10, "good": 240})
    before = states(run)
    go_on = ["train", "classifier", "--out", str(run), "--resume", "--epochs", "2"]
    for more, name in ((["--width", "0.5"], "width"), (["--side", "64"], "side_px"), (["--data", "others"], "data")):
        assert main([*go_on, *more]) == 1
        said = capsys.readouterr().err
        assert f"[6006] the run in {run} can't go on with another {name}" in said and "Traceback" not in said
        assert states(run) == before
    assert main(go_on) == 0


def test_a_run_that_is_not_there_begins_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_squares(tmp_path / "parts", {"bad": 10, "good": 40})
    assert train(data, tmp_path / "mistyped", "--resume", "--epochs", "1") == 0
    assert "mistyped holds no checkpoint to go on from: the training begins" in caplog.text


def test_a_checkpoint_of_another_network_is_an_error_with_a_code(run: Path) -> None:
    (run / "config.toml").unlink()
    config = ClassifierConfig(out=run, data=(run.parent / "parts",), side_px=32, width=0.5, threads=1, resume=True)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt is of another network"):
        train_classifier(config, lambda _: None)


@pytest.fixture
def sigint() -> Iterator[None]:
    """SIGINT is heard: a shell gives what it starts in the background SIGINT as ignored, and with it these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Ctrl-C may come while a file is being opened
def test_ctrl_c_says_how_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_squares(tmp_path / "parts", {"bad": 10, "good": 240}), tmp_path / "run"
    words = ["train", "classifier", "--data", str(data), "--out", str(out), "--epochs", "3000", "--batch", "8"]

    def press() -> None:
        wait_for(lambda: (out / "best.pt").exists(), what="best.pt")
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as person:
        pressed = person.submit(press)
        assert main([*words, "--side", "32", "--width", "0.25", "--threads", "1"]) == 130
        pressed.result(60)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    told = said.strip().splitlines()[-1]
    assert told.startswith("stopped; it goes on after the last whole epoch by: lineside train classifier")
    again = shlex.split(told.partition(" by: ")[2])
    assert main([*again[1:], "--minutes", "0.001"]) == 0
    assert (out / "float.onnx").exists()


def test_a_full_disk_says_how_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint.pt").touch()

    def train(_: argparse.Namespace) -> int:
        raise DiskFullError("no room")

    with pytest.raises(DiskFullError):
        resumable("classifier", train)(argparse.Namespace(out=tmp_path))
    assert capsys.readouterr().err.endswith(f" by: lineside train classifier --out {tmp_path} --resume\n")


def test_time_that_is_spent_before_the_first_evaluation_ends_with_a_model_all_the_same(tmp_path: Path) -> None:
    data, out = write_squares(tmp_path / "parts", {"bad": 10, "good": 240}), tmp_path / "run"

    def stop(_: TrainingProgress) -> None:
        if (out / "checkpoint.pt").exists():
            raise KeyboardInterrupt

    size: dict[str, Any] = {"side_px": 32, "width": 0.25, "batch": 8, "threads": 1}
    with pytest.raises(KeyboardInterrupt):
        train_classifier(ClassifierConfig(data=(data,), out=out, epochs=3000, evaluate_every=2000, **size), stop)
    assert not (out / "best.pt").exists()
    again = ["train", "classifier", "--data", str(data), "--out", str(out), "--resume", "--minutes", "0.001"]
    assert main(again) == 0
    assert (out / "best.pt").exists() and (out / "float.onnx").exists()


@pytest.mark.parametrize("kind", ["classifier", "detector", "segmenter", "document", "recommender"])
def test_data_that_are_not_there_are_an_error_of_each_kind(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--schema", "contract", "--encoder", str(tmp_path)] if kind == "document" else []
    errors = []
    for _ in range(2):  # what the first try leaves is no run
        assert main(["train", kind, "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run"), *more]) == 1
        errors.append(capsys.readouterr().err)
    assert errors[0].startswith("lineside train: [2") and errors[0] == errors[1]


def test_a_run_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run, kept = tmp_path / "run", tmp_path / "kept"
    kept.mkdir()
    for out in (run, kept):
        assert main(["train", "detector", "--data", str(tmp_path / "empty"), "--out", str(out)]) == 1
    assert not run.exists() and kept.is_dir()
