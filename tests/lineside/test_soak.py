"""What `make soak` says of a process that leaks, and of one that doesn't: both real, looked at from outside."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.agent.soak import SAMPLER, chart, verdict

SAMPLES, EVERY_S = 60, 0.02

CHILD = """
import sys
leaked, files = [b"x" * 30_000_000], []
print("ready", flush=True)
for line in sys.stdin:
    if sys.argv[1] == "memory":
        leaked.append(bytes(bytearray(200_000)))
    if sys.argv[1] == "handles":
        files.append(open("/dev/null"))
"""


def sampled(tmp_path: Path, leak: str) -> list[dict[str, Any]]:
    """Samples of a process that leaks a little after each of them, however busy the machine is."""
    status = tmp_path / "status.json"
    status.write_text('{"inspected": 7}')
    found: list[dict[str, Any]] = []
    command = [sys.executable, "-c", CHILD, leak]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        words = [sys.executable, "-I", "-S", str(SAMPLER), str(child.pid), "600", str(EVERY_S), str(status)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as sampler:
            assert sampler.stdout is not None
            for line in itertools.islice(sampler.stdout, SAMPLES):
                found.append(json.loads(line))
                child.stdin.write("leak\n")
                child.stdin.flush()
            sampler.kill()
        child.kill()
    return found


@pytest.mark.parametrize(("leak", "named"), [("none", ""), ("memory", "rss_bytes"), ("handles", "handles")])
def test_leak_is_named_and_a_flat_process_is_not_and_the_chart_shows_all_samples(
    tmp_path: Path, leak: str, named: str
) -> None:
    samples = sampled(tmp_path, leak)
    found = verdict.judge(samples)
    assert [problem.split()[0] for problem in found["problems"]][:1] == ([named] if named else [])
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
