"""What `make soak` says of a process that leaks, and of one that doesn't: both real, looked at from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.soak import SAMPLER, chart, verdict

SECONDS, EVERY_S = 2.5, 0.05

CHILD = """
import sys, time
leaked, files = [b"x" * 30_000_000], []
print("ready", flush=True)
while True:
    if sys.argv[1] == "memory":
        leaked.append(bytes(bytearray(200_000)))
    if sys.argv[1] == "handles":
        files.append(open("/dev/null"))
    time.sleep(0.02)
"""


def sampled(tmp_path: Path, leak: str) -> list[dict[str, Any]]:
    status = tmp_path / "status.json"
    status.write_text('{"inspected": 7}')
    with subprocess.Popen([sys.executable, "-c", CHILD, leak], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            command = [
                sys.executable,
                "-I",
                "-S",
                str(SAMPLER),
                str(child.pid),
                str(SECONDS),
                str(EVERY_S),
                str(status),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        finally:
            child.kill()
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("leak", "named"), [("none", ""), ("memory", "rss_bytes"), ("handles", "handles")])
def test_leak_is_named_and_a_flat_process_is_not(tmp_path: Path, leak: str, named: str) -> None:
    found = verdict.judge(sampled(tmp_path, leak))
    assert [problem.split()[0] for problem in found["problems"]][:1] == ([named] if named else [])


def test_chart_is_a_picture_of_all_samples(tmp_path: Path) -> None:
    samples = sampled(tmp_path, "none")
    picture = ElementTree.fromstring(chart.draw(samples, warm_up=verdict.WARM_UP))
    lines = [line for line in picture.iter() if line.tag.endswith("polyline")]
    assert [len(line.attrib["points"].split()) for line in lines] == [len(samples)] * 4


def test_too_short_a_run_is_not_judged() -> None:
    with pytest.raises(ValueError, match="samples after the warm-up"):
        verdict.judge([{}] * 10)


def test_sampler_ends_with_the_process_that_it_watches(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    command = [sys.executable, "-I", "-S", str(SAMPLER), str(ended.pid), "5", "1", str(tmp_path / "status.json")]
    assert subprocess.run(command, capture_output=True).returncode == 1
