"""``kill -9`` of the process that holds an isolated engine's other end: nothing may be left running."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.peers.waiting import wait_for

WILD = Path(__file__).parents[1] / "runtime" / "engine_process" / "wild_engine"
HOLDER = """
import sys, threading
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from lineside_runtime.backend import LoadOptions
from lineside_runtime.engine_process.engine import isolated

def start():
    backend = isolated("wild", None)
    loaded.append(backend.load(Path(sys.executable), backend.probe()[0], LoadOptions()))

loaded = []
starter = threading.Thread(target=start)
starter.start()
starter.join()  # the thread that started the child ends; the child must not
print(isolated("wild", None).pid, flush=True)
act = int(sys.argv[2])
answer = loaded[0].run({"do": np.array([act]), "x": np.ones(3)})
print(answer["x"].sum(), flush=True)
sys.stdin.read()
"""
ECHO, HANG_WITH_LOCK = 0, 5


def holder(act: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(WILD), str(act)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("act", [ECHO, HANG_WITH_LOCK])
def test_the_engine_ends_with_its_parent_whatever_it_does(act: int) -> None:
    with holder(act) as parent:
        if parent.stdout is None:
            raise AssertionError("no pipe")
        child = psutil.Process(int(parent.stdout.readline()))
        if act == ECHO:
            assert parent.stdout.readline() == "3.0\n"  # it outlived the thread that had started it
        else:
            wait_for(lambda: len(child.threads()) > 1)
        parent.kill()
        wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, what="the engine ends")


def test_the_engine_ends_with_a_parent_that_goes_quietly() -> None:
    with holder(ECHO) as parent:
        if parent.stdout is None or parent.stdin is None:
            raise AssertionError("no pipe")
        child = psutil.Process(int(parent.stdout.readline()))
        parent.stdin.close()
        assert parent.wait(60) == 0
        wait_for(lambda: not child.is_running(), what="the engine ends")
