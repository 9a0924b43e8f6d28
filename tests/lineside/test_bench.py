"""``lineside bench`` and `lineside.Benchmark`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lineside.cli import main
from lineside.commands.engines import accuracy
from lineside_converters.evaluation import bundle_accuracy as judging
from lineside_models import zoo
from lineside_models.datasets import load_dataset
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from tests.peers.waiting import wait_for
from tests.runtime.onnx_models import make_bundle, scaler
from tests.worlds.annotated_sets import write_strips

INT8 = str(zoo.path("surface-12"))
FLOAT = str(zoo.path("surface-12-float"))
QUICK = ["--threads", "1", "--rounds", "4", "--processes", "1"]

pytestmark = pytest.mark.usefixtures("short_warm_up")


@pytest.fixture
def doubler(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "doubler", scaler(2), name="doubler")


@pytest.mark.slow
def test_json_is_one_object_with_before_and_after(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside_runtime.benchmark.measurement.rounds.PROFILE_RUNS", 4)
    page = tmp_path / "bench.html"
    assert main(["bench", INT8, "--against", FLOAT, *QUICK, "--profile", "--json", "--html", str(page)]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    before, after = found["results"]
    shipped = [open_bundle(zoo.path(name)).manifest.identity for name in ("surface-12-float", "surface-12")]
    assert [before["bundle"], after["bundle"]] == shipped
    assert found["baseline"] == before["name"]
    for one in (before, after):
        assert one["used_devices"] == ["ort/cpu:0"]
        assert one["latency_ms"]["p50"] <= one["latency_ms"]["p95"] <= one["latency_ms"]["p99"]
        assert one["memory"]["peak_mb"] > one["memory"]["before_mb"] > 0
        assert one["throughput_fps"] > 0
        assert sum(kind["share"] for kind in one["bottleneck"]["kinds"]) == pytest.approx(1)
    assert after["size_bytes"] < before["size_bytes"]
    assert after["latency_ratio"]["rounds"] == found["rounds"] == 4
    assert after["accuracy"]["source"].startswith("report.json of surface-12")
    assert "warm after" in printed.err
    assert shipped[1] in page.read_text()


def test_engines_of_one_bundle_are_compared_and_printed(capsys: pytest.CaptureFixture[str], doubler: Bundle) -> None:
    words = ["--engines", "ort,openvino", "--batch", "1,8", *QUICK, "--processes", "0"]
    assert main(["bench", str(doubler.path), *words]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "ort, batch 1",
        "ort, batch 8",
        "openvino, batch 1",
        "openvino, batch 8",
    ]
    assert "on openvino/cpu:0" in out
    assert "openvino, batch 1 against ort, batch 1: " in out
    assert "nobody has measured it" in out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere"], 2002),
        ([INT8, "--level", "3"], 3006),
        ([INT8, "--engines", "tensorrt"], 1005),
        ([INT8, "--rounds", "0"], 2001),
        ([INT8, "--batch", "0"], 2001),
        ([INT8, "--html", "/nowhere/bench.html"], 2001),
        ([INT8, "--data", "/nowhere"], 2002),
    ],
)
def test_errors_have_their_code(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments, "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["code"] == code
    assert f"[{code}]" in printed.err


def test_a_script_without_a_guard_measures_once(doubler: Bundle, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from lineside import Benchmark, Config\n"
        f"found = Benchmark({str(doubler.path)!r}, Config(engines=('ort',), threads=1), rounds=2, alone_runs=0).run()\n"
        "print(*(f'{one.engine.split()[0]} {one.threads}' for one in found.results))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "ort 1\n"), done.stderr


def test_accuracy_is_measured_on_data_and_says_on_which(tmp_path: Path) -> None:
    folder = write_strips(tmp_path / "drawn", {"train": 6})
    judge = accuracy.on_data(folder, "train", max_frames=4)
    bundle = open_bundle(zoo.path("surface-12"))
    found = judge(bundle, Config(threads=1, engines=("ort",)))
    expected = judging.evaluate(bundle, load_dataset(folder, "train"), max_frames=4)
    assert found.value == pytest.approx(expected.map50)
    assert found.name == "mAP@0.5"
    assert found.source == "4 frames of neu-det, fold train, measured here on ort/cpu:0"


def _hear_interrupts() -> None:
    """A process that a shell has put in the background starts with SIGINT ignored, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def running(doubler: Bundle) -> subprocess.Popen[str]:
    """A benchmark that would go on for minutes, in its first rounds."""
    command = [sys.executable, "-m", "lineside", "bench", str(doubler.path), "--rounds", "100000", "--processes", "0"]
    started = subprocess.Popen(
        [*command, "--engines", "ort", "--batch", "1,8"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_interrupts,
    )
    assert started.stderr is not None
    for line in started.stderr:
        if line.startswith("round "):
            return started
    raise AssertionError(f"it ended with {started.wait()}")


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_whatever_ends_it_leaves_no_process(running: subprocess.Popen[str], signum: int, status: int) -> None:
    children = psutil.Process(running.pid).children(recursive=True)
    assert len(children) == 2
    if signum == signal.SIGINT:
        os.killpg(running.pid, signum)  # as a terminal does it
    else:
        running.send_signal(signum)
    out, _ = running.communicate(timeout=60)
    assert (running.returncode, out) == (status, "")
    wait_for(lambda: not any(one.is_running() for one in children), what="the contestants are gone")
