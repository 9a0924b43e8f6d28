"""Runs benchmarks, each in a process of its own, and writes their result files."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest

from benchmarks.provenance import collect
from benchmarks.registry import RESULTS, Benchmark
from benchmarks.smoke import FOLDER_VARIABLE, SMOKE, scaled
from lineside_runtime.files import write_atomic

SMOKE_WORKERS = 2
SMOKE_LIMIT_S = 600
"""A benchmark of a smoke run that takes longer hangs; a loaded machine is allowed for."""

HASHED_IN_SMOKE = ("benchmarks/smoke.py",)
"""In place of the measured sources: to read all of them took each worker 3 s, and nothing is kept."""


def parameters(benchmark: Benchmark) -> frozenset[str]:
    """Returns the parameters of a benchmark's ``run``: ``minutes`` of work, the folder ``out`` for its files."""
    return frozenset(inspect.signature(importlib.import_module(benchmark.module).run).parameters)


def write(benchmark: Benchmark, folder: Path, *, command: str, minutes: float | None = None) -> dict[str, Any]:
    """Runs a benchmark in this process and writes ``NAME.json`` whole.

    Args:
        command: That repeats it; part of the file.
        minutes: Of work, for a benchmark that has a choice; ``None`` for its own default.

    Returns:
        What is in the file.
    """
    provenance = collect(command, scaled(benchmark.paths, smoke=HASHED_IN_SMOKE))
    options = {"out": folder, **({} if minutes is None else {"minutes": minutes})}
    began_s = time.monotonic()
    taken = parameters(benchmark)
    found = importlib.import_module(benchmark.module).run(**{k: v for k, v in options.items() if k in taken})
    provenance = msgspec.structs.replace(provenance, seconds=round(time.monotonic() - began_s, 1))
    content = {"provenance": msgspec.to_builtins(provenance), **found}
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomic(folder / f"{benchmark.name}.json", text.encode())
    return dict(json.loads(text))


def run(
    benchmarks: Sequence[Benchmark], *, minutes: float | None = None, folder: Path = RESULTS
) -> tuple[dict[str, Any], list[str]]:
    """Runs benchmarks one after the other.

    Returns:
        The content of each result file by name, and the names of those that failed.
    """
    found: dict[str, Any] = {}
    failed = []
    for benchmark in benchmarks:
        print(f"benchmark {benchmark.name} ...", file=sys.stderr, flush=True)
        command = f"python -m benchmarks {benchmark.name}" + ("" if minutes is None else f" --minutes {minutes:g}")
        with _pool(1) as pool:
            future = pool.submit(_measured, benchmark, folder, command, minutes)
            error = future.exception()
        if error is not None:
            print(f"benchmark {benchmark.name} failed: {_text(error)}", file=sys.stderr, flush=True)
            failed.append(benchmark.name)
            continue
        found[benchmark.name] = future.result()
        for problem in found[benchmark.name].get("problems", ()):
            print(f"benchmark {benchmark.name}: {problem}", file=sys.stderr, flush=True)
            failed.append(benchmark.name)
    return found, sorted(set(failed))


def smoke(benchmarks: Sequence[Benchmark]) -> list[str]:
    """Runs benchmarks with their smallest inputs, two at a time, and keeps nothing.

    One that fails is run once more, alone: beside the tests it may wait longer for a core than its limits allow.

    Returns:
        The names of those that failed twice.
    """
    failed = _smoke_run(benchmarks, SMOKE_WORKERS)
    if failed:
        print(f"running again, alone: {', '.join(failed)}", flush=True)
        failed = _smoke_run([each for each in benchmarks if each.name in failed], 1)
    return failed


def _smoke_run(benchmarks: Sequence[Benchmark], workers: int) -> list[str]:
    failed = []
    with tempfile.TemporaryDirectory(prefix="lineside-smoke-") as name:
        folder = Path(name)
        os.environ |= {FOLDER_VARIABLE: name, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        try:
            with _pool(workers) as pool:
                longest_first = sorted(benchmarks, key=lambda each: not each.long)
                futures = {pool.submit(_smoked, each, folder): each.name for each in longest_first}
                for future in as_completed(futures):
                    failed += _failure(futures[future], future, folder)
        finally:
            del os.environ[FOLDER_VARIABLE]
    return sorted(failed)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker)


def _begin_worker() -> None:
    """Gives this worker a folder of its own in a smoke run, and ends it when the process that started it is killed.

    Two benchmarks that share what they train would write the same files at once; and without its parent a worker would
    measure on and write a result.
    """
    if SMOKE:
        os.environ[FOLDER_VARIABLE] = tempfile.mkdtemp(dir=os.environ[FOLDER_VARIABLE])

    def wait() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _measured(benchmark: Benchmark, folder: Path, command: str, minutes: float | None) -> dict[str, Any]:
    os.dup2(2, 1)  # stdout is for the caller's JSON
    try:
        return write(benchmark, folder, command=command, minutes=minutes)
    except BaseException:  # noqa: BLE001  # not every exception can be sent to another process
        raise RuntimeError(traceback.format_exc()) from None


def _smoked(benchmark: Benchmark, folder: Path) -> dict[str, Any]:
    """Runs a benchmark with its output in a file; what a missing program of Debian's leaves out is in the result."""
    kept = os.dup(1), os.dup(2)
    with (folder / f"{benchmark.name}.log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SMOKE_LIMIT_S)
    _shorten_work()
    if benchmark.component == "converters":  # which imports torch anyway
        _shorten_search()
    try:
        return write(benchmark, folder, command=f"python -m benchmarks {benchmark.name} --smoke")
    except pytest.skip.Exception as missing:
        return {"left_out": str(missing)}
    except BaseException:  # noqa: BLE001  # not every exception can be sent to another process
        raise RuntimeError(traceback.format_exc()) from None
    finally:
        signal.alarm(0)
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)


def _shorten_work() -> None:
    """Has the optimizer's gates judge and time, and `learn-good --bad` train, as little as they can in this process.

    No form is refused as too slow: beside tests so few rounds say nothing. The smallest classifier stands for the
    public one, which takes 10 s to export and quantize.
    """
    from benchmarks.inputs import networks
    from lineside_converters.data import calibration_data
    from lineside_converters.gates import checks
    from lineside_converters.levels import LEVELS
    from lineside_models.anomaly import defect_head

    networks.HOME = Path(os.environ[FOLDER_VARIABLE]) / ".networks"  # not among the real ones
    networks.lite0_float = networks.small  # of which lite0_int8 is made
    calibration_data.SIMULATED_CALIBRATION = calibration_data.SIMULATED_JUDGED = 4
    checks.ROUNDS = 2
    for number, level in LEVELS.items():
        LEVELS[number] = dataclasses.replace(level, max_slowdown=1e9)
    defect_head.STEPS = 10


def _shorten_search() -> None:
    """Has pruning and the search of level 3 measure as little as they can in this process."""
    from lineside_converters.pruning import pipeline, sensitivity
    from lineside_converters.search import trials

    pipeline.COSTING_FEEDS = trials.CALIBRATED_ON = trials.TIMED_ROUNDS = trials.TIMED_TOGETHER = 2
    sensitivity.KEPT = (0.5,)  # type: ignore[assignment]  # fewer than there are


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"took more than {SMOKE_LIMIT_S} s")


def _failure(name: str, future: Future[dict[str, Any]], folder: Path) -> list[str]:
    """Prints how a smoke run ended; returns its name if it failed."""
    error = future.exception()
    if error is not None:
        log = folder / f"{name}.log"
        output = log.read_text(errors="replace")[-4000:] if log.exists() else ""
        print(f"benchmark {name} failed:\n{output}{_text(error)}", file=sys.stderr, flush=True)
        return [name]
    content = future.result()
    seconds = f" in {content['provenance']['seconds']:.1f} s" if "provenance" in content else ""
    print(f"benchmark {name} runs{seconds}", *(f"\n  left out: {why}" for why in _left_out(content)), flush=True)
    return []


def _left_out(content: object) -> Iterator[str]:
    """Yields every text under a key ``left_out``."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key == "left_out":
                yield from (value,) if isinstance(value, str) else value
            else:
                yield from _left_out(value)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
