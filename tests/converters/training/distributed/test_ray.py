"""``lineside train … --workers 2`` on a real Ray that it starts and ends itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("ray", reason="the ray extra is not installed")

from lineside.cli import main
from tests.worlds.annotated_sets import write_strips

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@pytest.mark.timeout(900)  # beside much other work it took more than 280 s
def test_two_workers_train_a_detector_and_say_what_it_cost(tmp_path: Path) -> None:
    data, out = write_strips(tmp_path / "steel", {"train": 24}), tmp_path / "run"
    words = ["train", "detector", "--data", str(data), "--workers", "2", "--epochs", "2", "--out", str(out), "--json"]
    words += ["--batch", "4", "--canvas", "64", "--simulated-share", "0", "--held-share", "0.3", "--threads", "1"]
    words += ["--architecture", "lite0@16", "--gradients", "bf16", "--evaluate-every", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "lineside", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout)
    assert {"workers", "epochs", "map50", "bytes_per_step", "communication_share", "samples_per_second"} <= set(found)
    assert (found["workers"], found["epochs"], found["restarts"], found["scheme"]) == (2, 2, 0, "bf16")
    assert found["bytes_per_step"] > 1e6 and 0 < found["communication_share"] < 1
    assert json.loads((out / "report.json").read_text())["samples_per_second"] == found["samples_per_second"]
    assert "bytes that a worker sends in a step" in (out / "report.html").read_text()
    facts = json.loads((out / "training.json").read_text())
    assert len(facts["losses"]) == 2 and facts["steps"] == facts["losses"][-1]["step"]
    assert (
        Path(found["onnx"]) == out / "float.onnx" and (out / "float.onnx").exists() and (out / "curves.html").exists()
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpus"], "--gpus without --workers"),
        (["--workers", "0"], "workers is not usable"),
        (["--group", "canary"], "--group without --then"),
        (["--then", "optimize,push"], "without where to"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    code = main(["train", "detector", "--data", str(tmp_path), "--out", str(tmp_path / "run"), *words])
    assert code != 0 and said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
