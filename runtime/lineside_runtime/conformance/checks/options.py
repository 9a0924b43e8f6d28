"""An engine follows the options that it is loaded with, or refuses them; it ignores none."""

from __future__ import annotations

import concurrent.futures
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lineside_runtime.backend import Executable
from lineside_runtime.conformance.kit import CheckFailed, NotApplicable
from lineside_runtime.conformance.models import ConformanceModel
from lineside_runtime.conformance.subject import EngineSubject, expect, expect_right
from lineside_runtime.errors import BadInputFormatError, ConfigError, LinesideError
from lineside_runtime.tensors import Array

CALLS = 30
SAMPLES_LEAST = 30
MEASURE_S = 0.25
MEASURE_MAX_S = 10.0
WORK_NS_LEAST = 100_000_000
"""Processor time of the calls: on a busy machine they get little in `MEASURE_S`, and then other threads of the process
seem to matter."""

BUSY_MAX = 1.25
"""Processors that one working thread may keep busy: while it hands over to another, both run."""

ON_CORE_MIN = 0.7
"""Between two calls the caller's thread may be anywhere."""

LONG_BATCH = 256
"""Makes a call some 50 ms long: on a busy machine a thread also waits between two calls, where it may be anywhere."""

PROFILE_SHARE_MAX = 1.1

_THREAD_CLOCK = 6
"""Of a clock's number: ``CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED`` (Linux, ``include/linux/posix-timers_types.h``)."""


def with_one_thread_it_keeps_one_processor_busy(subject: EngineSubject) -> str:
    """``threads=1`` on a CPU means one: the other cores have work of their own."""
    if subject.device.kind != "cpu":
        raise NotApplicable("threads are those of a call on a CPU")
    if not subject.in_this_process:
        raise NotApplicable("its threads are another process's")
    if (os.cpu_count() or 1) < 2:
        raise NotApplicable("there is only one processor here")
    _wait_until_idle()
    with subject.loaded(subject.largest, threads=1) as executable:
        busy = _watch(executable, _long_inputs(executable, subject.largest)).busy()
    if busy > BUSY_MAX:
        raise CheckFailed(f"its threads kept {busy:.2f} processors busy, allowed {BUSY_MAX}")
    return f"{busy:.2f} processors busy"


def _wait_until_idle() -> None:
    """Lets threads of earlier work go to sleep: numpy's own spin on for some milliseconds after a product."""
    for _ in range(100):
        before_s = time.process_time()
        time.sleep(0.02)
        if time.process_time() - before_s < 0.002:
            return


def with_more_threads_it_is_still_right(subject: EngineSubject) -> str:
    """``threads=2``, or as many as it likes, computes the same."""
    model = subject.largest
    inputs = model.network.sample(1)
    for threads in (2, None):
        with subject.loaded(model, threads=threads) as executable:
            expect_right(executable.run(inputs), model, inputs, f" with {threads} threads")
    return model.network.name


def it_keeps_to_the_cores_that_it_is_given(subject: EngineSubject) -> str:
    """``cores`` is followed, by the caller's thread during a call as well, or is a configuration error (2001)."""
    allowed = os.sched_getaffinity(0)
    if subject.device.kind != "cpu":
        raise NotApplicable("cores are those of a call on a CPU")
    if not subject.in_this_process:
        raise NotApplicable("its threads are another process's")
    if len(allowed) < 2:
        raise NotApplicable("there is only one processor here")
    core = max(allowed)
    seen: list[str] = []
    for threads in (1, 2):
        try:
            seen.append(f"{threads} thread{'s' * (threads > 1)} {_share_on(core, subject, threads):.0%} on core {core}")
        except ConfigError as error:  # noqa: PERF203  twice
            seen.append(f"{threads} refused: {error.message}")
    if os.sched_getaffinity(0) != allowed:
        raise CheckFailed("the caller's own thread was pinned, and stayed so")
    return ", ".join(seen)


def _share_on(core: int, subject: EngineSubject, threads: int) -> float:
    """Returns the share of the running threads that were kept on the core while calls ran."""
    _wait_until_idle()
    with subject.loaded(subject.largest, threads=threads, cores=(core,)) as executable:
        samples = _watch(executable, _long_inputs(executable, subject.largest)).samples
    kept = [cores == {core} for sample in samples for cores in sample.values()]
    share = sum(kept) / max(1, len(kept))
    if share < ON_CORE_MIN:
        raise CheckFailed(f"cores=({core},) and threads={threads}: kept there for {share:.0%} of the work only")
    return share


class _Watched(NamedTuple):
    """What the threads of this process did while calls ran, but for the thread that watched.

    Attributes:
        samples: For each moment, `_running`.
        spent_ns: Processor time of each thread that is still there.
        all_ns: Processor time of all, with those that have ended.
    """

    samples: list[dict[int, set[int]]]
    spent_ns: dict[int, int]
    all_ns: int

    def busy(self) -> float:
        """Returns how many processors the threads would keep busy on a machine without other work.

        This is their processor time divided by that of the busiest thread, times the share of moments in which that one
        ran or waited for a processor. Waiting of other threads doesn't count: where other processes want the
        processors, a thread that wakes for a microsecond waits for milliseconds.
        """
        busiest = max(self.spent_ns, key=self.spent_ns.__getitem__)
        share = sum(busiest in sample for sample in self.samples) / len(self.samples)
        return share * self.all_ns / max(1, self.spent_ns[busiest])


def _watch(executable: Executable, inputs: dict[str, Array]) -> _Watched:
    """Calls it for a while in another thread, and watches the threads of this process meanwhile."""
    executable.run(inputs)
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            executable.run(inputs)

    samples: list[dict[int, set[int]]] = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        before, all_ns = _spent_ns(), time.process_time_ns() - time.thread_time_ns()
        calls = pool.submit(call)
        began_s = time.monotonic()
        while (took_s := time.monotonic() - began_s) < MEASURE_MAX_S:
            worked_ns = time.process_time_ns() - time.thread_time_ns() - all_ns
            if took_s >= MEASURE_S and len(samples) >= SAMPLES_LEAST and worked_ns >= WORK_NS_LEAST:
                break
            samples.append(_running())
            time.sleep(0.001)
        all_ns = time.process_time_ns() - time.thread_time_ns() - all_ns
        spent = {thread: ns - before.get(thread, 0) for thread, ns in _spent_ns().items()}
        done.set()
        calls.result()
    return _Watched(samples, spent, all_ns)


def _long_inputs(executable: Executable, model: ConformanceModel) -> dict[str, Array]:
    inputs = model.network.sample(1, batch=LONG_BATCH)
    try:
        executable.run(inputs)
    except BadInputFormatError:
        return model.network.sample(1)
    return inputs


def _running() -> dict[int, set[int]]:
    """Returns the cores allowed to each thread that runs or waits for a processor, but for the one that asks."""
    found: dict[int, set[int]] = {}
    for thread in _others():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            stat = Path(f"/proc/self/task/{thread}/stat").read_text(encoding="ascii", errors="replace")
            if stat.rpartition(")")[2].split()[0] == "R":
                found[thread] = os.sched_getaffinity(thread)
    return found


def _spent_ns() -> dict[int, int]:
    """Returns the processor time of each thread but for the one that asks."""
    found: dict[int, int] = {}
    for thread in _others():
        with suppress(OSError):  # it has just ended
            found[thread] = time.clock_gettime_ns(~thread << 3 | _THREAD_CLOCK)
    return found


def _others() -> list[int]:
    """Returns the threads of this process but for the one that asks."""
    threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    return [thread for thread in threads if thread != threading.get_native_id()]


def an_operator_library_is_loaded_or_refused(subject: EngineSubject) -> str:
    """One that isn't there, or is none, is never ignored."""
    with tempfile.TemporaryDirectory(prefix="lineside-conformance-") as folder:
        missing, text = Path(folder, "missing.so"), Path(folder, "text.so")
        text.write_text("This is not a library.", encoding="ascii")
        for library in (missing, text):
            options = subject.simplest.options(operator_libraries=(library,))
            with expect(LinesideError, what=f"the operator library {library.name}"):
                subject.backend.load(subject.simplest.file, subject.device, options).close()
    return f"{missing.name}, {text.name}"


def its_profile_is_plausible_or_empty(subject: EngineSubject) -> str:
    """What the operators took is no more than what the calls took; without ``profile`` there is none."""
    model = subject.largest
    inputs = model.network.sample(1)
    with subject.loaded(model) as executable:
        executable.run(inputs)
        if executable.operators():
            raise CheckFailed("it gives a profile that nobody asked for, which costs speed")
    with subject.loaded(model, profile=True) as executable:
        if any(operator.calls for operator in executable.operators()):
            raise CheckFailed("it has a profile before the first call")
    with subject.loaded(model, profile=True) as executable:  # another one: some can be read only once
        started = time.perf_counter()
        for _ in range(CALLS):
            expect_right(executable.run(inputs), model, inputs, " with a profile")
        wall_us = (time.perf_counter() - started) * 1e6
        operators = executable.operators()
    if not operators:
        return "it has none"
    odd = [operator for operator in operators if operator.mean_us < 0 or not operator.kind or not operator.name]
    spent_us = sum(operator.calls * operator.mean_us for operator in operators)
    if odd or spent_us <= 0 or spent_us > PROFILE_SHARE_MAX * wall_us:
        raise CheckFailed(f"{spent_us:.0f} µs in operators of {wall_us:.0f} µs in all; {odd[:3]}")
    slowest = max(operators, key=lambda operator: operator.calls * operator.mean_us)
    return f"{len(operators)} operators, most in {slowest.kind} {slowest.name!r} ({slowest.mean_us:.0f} µs a call)"


CHECKS = (
    with_one_thread_it_keeps_one_processor_busy,
    with_more_threads_it_is_still_right,
    it_keeps_to_the_cores_that_it_is_given,
    an_operator_library_is_loaded_or_refused,
    its_profile_is_plausible_or_empty,
)
