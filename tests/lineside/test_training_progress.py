"""What is shown of a training while it runs: curves on a terminal, lines elsewhere, TensorBoard's files on request."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from lineside.commands.train.training import BARS, sparkline

SCRIPT = """
import argparse, pathlib, sys
from lineside.commands.train.training import progress_of
from lineside_converters.training.progress import TrainingProgress

options = argparse.Namespace(tensorboard="--tensorboard" in sys.argv)
with progress_of(options, pathlib.Path(sys.argv[1])) as report:
    for step in range(40):
        held = {"top1": step / 40} if step % 10 == 9 else {}
        report(TrainingProgress(epoch=step // 10, step=step, steps=40, loss=2 - step / 40, learning_rate=1e-3,
                             elapsed_s=step, remaining_s=40 - step, held=held))
"""


def on_a_terminal(command: list[str]) -> str:
    """Runs a command whose stderr is a terminal, and returns what it wrote there."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        command, stderr=follower, stdout=subprocess.DEVNULL, env=os.environ | {"TERM": "xterm"}
    ) as run:
        os.close(follower)
        text = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while True:
                text += os.read(leader, 65536)
    os.close(leader)
    assert run.returncode == 0, text.decode()
    return text.decode()


def test_a_terminal_shows_curves_that_are_drawn_again(tmp_path: Path) -> None:
    text = on_a_terminal([sys.executable, "-c", SCRIPT, str(tmp_path)])
    assert "loss" in text and any(bar in text for bar in BARS)
    assert "top1" in text and "0.975, best 0.975" in text
    assert "\x1b[" in text, "the cursor goes back up"


def test_without_a_terminal_there_are_lines(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stderr.count("top1 ") == 4 and not any(bar in done.stderr for bar in BARS)


def test_a_curve_of_bars_rises_as_its_values_do() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == BARS[0] + BARS[4] + BARS[7]
    assert sparkline([3.0, 3.0]) == BARS[0] * 2
    assert len(sparkline([float(n) for n in range(1000)])) == 48


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="the tensorboard extra is not installed")
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401  # the package is whole
    from tensorboardX.proto.event_pb2 import Event

    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), "--tensorboard"], check=True, capture_output=True)
    (file,) = (tmp_path / "tensorboard").iterdir()
    values: dict[str, list[tuple[int, float]]] = {}
    for record in records(file.read_bytes()):
        event = Event.FromString(record)
        for value in event.summary.value:
            values.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert len(values["loss"]) == len(values["learning_rate"]) == 40
    assert values["held/top1"][-1] == pytest.approx((39, 0.975))


def records(data: bytes) -> list[bytes]:
    """Returns the records of a TFRecord file: length, its checksum, content, its checksum."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        found.append(data[at + 12 : at + 12 + size])
        at += 16 + size
    return found
