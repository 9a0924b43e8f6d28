"""The agent's memory: no modules that it does not need, and no more tensors of the engine than are in use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lineside_agent.cameras.reader import FrameQueue
from lineside_models.frame import Frame
from tests.peers.waiting import wait_for

STARTED = """
import json, sys
import lineside_agent.daemon
before = sorted(sys.modules)
import sqlite3
from lineside_agent.storage.record_files.database import tables_of
tables_of(sqlite3.connect(":memory:"))["parts"].insert({"part": 1, "name": "a"})
import pandas
print(json.dumps({"before": before, "late": pandas.LATE}))
"""

JUDGED = """
import sys
from pathlib import Path
import numpy as np
from lineside_models import zoo
from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort.session import session_options
from lineside_runtime.system import heap
from lineside_runtime.session import Config, Session
if sys.argv[1] == "sparing":
    heap.save_memory()
image = np.random.default_rng(1).normal(size=(1, 1, 480, 640)).astype(np.float32)
with Session(zoo.path("surface-12"), Config(threads=1, engines=("ort",))) as session:
    for _ in range(3):
        found = session.predict(image)
    held = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    own = [session_options(LoadOptions(calls=calls)).enable_mem_pattern for calls in (1, 2)]
    np.savez(sys.argv[2], held=int(held[0].split()[1]), own=own, **found)
"""


def test_an_agent_without_a_hub_imports_neither_signatures_nor_pandas(tmp_path: Path) -> None:
    (tmp_path / "pandas.py").write_text("LATE = True\n")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    command = [sys.executable, "-c", STARTED]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said["late"], "who wants pandas afterwards must get it"
    assert not {"pandas", "tuf", "cryptography", "paho.mqtt.client", "sqlite_utils"} & set(said["before"])


OPENED = """
import sys
from pathlib import Path
from lineside_agent.storage.record_files.database import open_schema
print(open_schema(Path(sys.argv[1]), "one").epoch, "sqlite_utils" in sys.modules)
"""


def test_tables_that_are_there_are_opened_without_what_made_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPENED, str(tmp_path / "records.db")]
    said = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(2)]
    assert said == [["one", "True"], ["one", "False"]]


@pytest.mark.skipif(sys.platform != "linux", reason="memory as Linux counts it")
def test_a_sparing_process_holds_less_and_finds_the_same(tmp_path: Path) -> None:
    found = {}
    for way in ("sparing", "plain"):
        target = tmp_path / f"{way}.npz"
        subprocess.run([sys.executable, "-c", JUDGED, way, str(target)], check=True, timeout=120)
        found[way] = dict(np.load(target))
    sparing, plain = (int(found[way].pop("held")) for way in ("sparing", "plain"))
    assert sparing < plain - 6_000, "kB: in arenas that double, tensors are held about twice"
    assert found["plain"].pop("own").tolist() == [True, True]
    assert found["sparing"].pop("own").tolist() == [False, True], "calls at once have an arena of their own"
    for name, array in found["plain"].items():
        np.testing.assert_array_equal(found["sparing"][name], array)


def test_a_source_that_waits_itself_is_read_no_further_ahead_than_it_must() -> None:
    stop = threading.Event()
    queue = FrameQueue(8, stop, ahead=2)
    given: list[int] = []

    def give() -> None:
        for sequence in range(6):
            queue.put(Frame(image=np.zeros((4, 4), np.uint8), sequence=sequence), wait=True)
            given.append(sequence)

    thread = threading.Thread(target=give)
    thread.start()
    wait_for(lambda: len(given) == 2)
    assert [queue.get() is not None for _ in range(6)] == [True] * 6
    thread.join(60.0)
    live = [queue.put(Frame(image=np.zeros((4, 4), np.uint8), sequence=one), wait=False) for one in range(9)]
    assert live == [True] * 8 + [False]
    stop.set()
