"""Memory between training steps: what is freed is used again, and given back at the end."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")

BYTES = 64 * 1024 * 1024
MEASURED = f"""
import json, resource
from pathlib import Path
import numpy as np
from lineside_converters.training.memory_pages import kept_pages

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones({BYTES}, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

with kept_pages():
    first, second = faults_of_a_step(), faults_of_a_step()
    held = resident()
print(json.dumps([first, second, held - resident()]))
"""


@pytest.fixture(scope="module")
def measured() -> list[int]:
    """Page faults of two steps and what was given back, in a process whose heap nobody else has cut up."""
    done = subprocess.run([sys.executable, "-c", MEASURED], check=True, stdout=subprocess.PIPE, text=True)
    found: list[int] = json.loads(done.stdout)
    return found


def test_a_second_step_touches_no_new_pages(measured: list[int]) -> None:
    first, second, _ = measured
    assert second < max(first, BYTES // 2**21) / 10


def test_at_the_end_the_pages_are_given_back(measured: list[int]) -> None:
    assert measured[2] > BYTES / 2
