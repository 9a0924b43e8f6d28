"""Steps of `benchmarks.gpu` for the tests of its runner: they end in every way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.steps import Case, LeftOut, StepError
from lineside_runtime.files import write_atomic


def measures(case: Case, *, engine: str) -> dict[str, Any]:
    return {"engine": engine, "gpus": case.gpus, "process": os.getpid()}


def hangs(case: Case) -> dict[str, Any]:
    """Waits for a child that never ends, after noting the child's process."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    write_atomic(case.folder / "child", str(child.pid).encode())
    time.sleep(600)
    return {}


def crashes(_: Case) -> dict[str, Any]:
    print("about to crash", flush=True)
    os.abort()


def is_broken(_: Case) -> dict[str, Any]:
    return {"wrong": 1 // 0}


def is_half_done(_: Case) -> dict[str, Any]:
    raise StepError("fp16: not supported", {"fp32": {"ms": 1.0}})


def needs_more(_: Case) -> dict[str, Any]:
    raise LeftOut("no wheel of tensorrt")


def writes(case: Case) -> dict[str, Any]:
    Path(case.folder / "written").touch()
    return {}
