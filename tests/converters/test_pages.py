"""Memory between training steps: what is freed is used again, and given back at the end."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import numpy as np
import pytest

from lineside_converters.training.pages import kept_pages

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")

PAGES = 64 * 1024 * 1024 // resource.getpagesize()


def faults_of_a_step() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 * 1024 * 1024, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_second_step_touches_no_new_pages() -> None:
    with kept_pages():
        faults_of_a_step()
        assert faults_of_a_step() < PAGES / 10


def test_at_the_end_the_pages_are_given_back() -> None:
    with kept_pages():
        faults_of_a_step()
        held = resident_bytes()
    assert resident_bytes() < held - 32 * 1024 * 1024
