"""Run a benchmark: open the contestants, measure each alone, then all in interleaved turns, and report.

::

    open ─► alone: start, memory ─► together: warm ─► rounds of turns ─► operators ─► accuracy ─► report

Invariants:

- Every contestant lives in a process of its own; only one of them works at a time.
- Nothing that isn't warm is timed, except the start, which is cold on purpose.
- In each round every contestant has one turn of equal length; who begins changes from round to round, and what is
  compared is compared round by round.
- What was asked for and can't run here is an error; what was not asked for by name is left out, with its reason.
"""

from __future__ import annotations

import contextlib
import datetime
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from lineside_runtime.benchmark import machine
from lineside_runtime.benchmark.accuracy import Judge, from_report
from lineside_runtime.benchmark.measurement import input_data, rounds
from lineside_runtime.benchmark.measurement.contestants import ALL, Axes, Contestant, ContestantEntry, open_contestants
from lineside_runtime.benchmark.measurement.process import Process
from lineside_runtime.benchmark.measurement.protocol import Turn
from lineside_runtime.benchmark.measurement.runner import WARM_RULE
from lineside_runtime.benchmark.measurement.start_and_memory import ALONE_RUNS, FreshRuns, measure_fresh_processes
from lineside_runtime.benchmark.report import BenchmarkReport, Result
from lineside_runtime.benchmark.results import BenchmarkFinding
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError
from lineside_runtime.progress import TextListener
from lineside_runtime.tensors import Array


class Benchmark:
    """Measures a bundle, and compares it with others.

    ::

        report = Benchmark("surface-12", Config(threads=1), against=["surface-12-float"]).run(profile=True)
        before, after = report.results
        print(before.latency_ms.p50, after.latency_ms.p50, after.latency_ratio.median)
        write_page(report, Path("bench.html"))
    """

    def __init__(
        self,
        bundle: Bundle | Path | str | Contestant,
        config: Config | None = None,
        *,
        against: Sequence[Bundle | Path | str | Contestant] = (),
        engines: Sequence[str] | Literal["all"] | None = None,
        levels: Sequence[int] | None = None,
        batches: Sequence[int] = (1,),
        streams: Sequence[int] = (1,),
        rounds: int | None = None,
        alone_runs: int = ALONE_RUNS,
        inputs: Mapping[str, Array] | None = None,
        judge: Judge | None = None,
    ) -> None:
        """Sets what is measured. The first contestant is the baseline of the comparison.

        Args:
            bundle: A bundle, its folder, a ``.lsb``, or a `Contestant` with a configuration of its own.
            config: Where the bundles may run; `Config()` if ``None``.
            against: What it is compared with; these come first, as what was there before.
            engines: Each bundle once for each engine; ``all`` for every engine that can run it here.
            levels: Each bundle once for each optimisation level.
            batches: Each bundle once for each number of frames in a call.
            streams: Each bundle once for each number of callers at once.
            rounds: Turns of each contestant; ``None`` for as many as fit into `rounds.BUDGET_S` seconds.
            alone_runs: Fresh processes from which start and memory are measured; 0 leaves both out.
            inputs: Of one call, by name; ``None`` for noise in the shape of a frame.
            judge: Measures the accuracy; ``None`` for what the bundle's report says.

        Raises:
            ConfigError: A number out of range.
        """
        if rounds is not None and rounds < 1:
            raise ConfigError("rounds", expected="None or an integer of at least 1", actual=rounds)
        if alone_runs < 0:
            raise ConfigError("alone_runs", expected="an integer of at least 0", actual=alone_runs)
        axes = Axes(engines, levels, batches, streams)
        self._contestants = [
            one
            for source in (*against, bundle)
            for one in ([source] if isinstance(source, Contestant) else axes.cross(source, config or Config()))
        ]
        self._optional = engines == ALL
        self._rounds = rounds
        self._alone_runs = alone_runs
        self._inputs = inputs
        self._judge = judge

    def run(self, *, profile: bool = False, on_progress: TextListener | None = None) -> BenchmarkReport:
        """Measures everything.

        Args:
            profile: Ask each engine where the time goes inside the model.
            on_progress: Called with a line of text for each step.

        Raises:
            LinesideError: A bundle can't be opened, or something that was asked for can't run here.
        """
        progress = on_progress or _no_progress
        began_s, before = time.monotonic(), machine.conditions()
        with contextlib.ExitStack() as resources:
            entries = open_contestants(self._contestants, resources, optional=self._optional)
            inputs = self._save_inputs(resources)
            alone, left_out = measure_fresh_processes(entries, inputs, self._alone_runs, progress)
            findings = self._together([entry for entry in entries if entry.name in alone], inputs, profile, progress)
            after, seconds = machine.conditions(), time.monotonic() - began_s
            results = self._results(findings, alone, progress)
        here = machine.machine()
        return BenchmarkReport(
            made_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            seconds=seconds,
            machine=here,
            before=before,
            after=after,
            remarks=machine.remarks(before, after, seconds, here.cores),
            rounds=len(findings[0].turns),
            turn_ms=rounds.TURN_S * 1e3,
            warm_up=WARM_RULE,
            material=input_data.NOISE if self._inputs is None else "given by the caller",
            baseline=results[0].name,
            results=results,
            left_out=left_out,
        )

    def _together(
        self, entries: Sequence[ContestantEntry], inputs: Path | None, profile: bool, progress: TextListener
    ) -> list[BenchmarkFinding]:
        with contextlib.ExitStack() as processes:
            running = [processes.enter_context(Process(entry, inputs)) for entry in entries]
            warmed = rounds.warm(entries, running, progress)
            turns = [
                Turn(calls=rounds.calls_in_a_turn(one, entry.contestant.streams))
                for one, entry in zip(warmed, entries, strict=True)
            ]
            played = rounds.run_rounds(running, turns, self._rounds or rounds.rounds_in_budget(warmed), progress)
            profiled = rounds.profile(entries, running, progress) if profile else [None] * len(running)
            ready = [one.ready for one in running]
        return [BenchmarkFinding(*facts) for facts in zip(entries, ready, warmed, played, profiled, strict=True)]

    def _results(
        self, findings: Sequence[BenchmarkFinding], alone: Mapping[str, FreshRuns], progress: TextListener
    ) -> tuple[Result, ...]:
        results = []
        for one in findings:
            if self._judge is None:
                accuracy = from_report(one.entry.bundle, one.variant)
            else:
                progress(f"{one.entry.name}: accuracy ...")
                accuracy = self._judge(one.entry.bundle, one.entry.contestant.config)
            results.append(one.result(findings[0], alone[one.entry.name], accuracy))
        return tuple(results)

    def _save_inputs(self, resources: contextlib.ExitStack) -> Path | None:
        if self._inputs is None:
            return None
        folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="lineside-bench-"))
        path = Path(folder) / "inputs.npz"
        np.savez(path, **{name: np.asarray(array) for name, array in self._inputs.items()})  # type: ignore[arg-type]  # numpy types its allow_pickle into the arrays
        return path


def _no_progress(text: str) -> None:
    """Reports nothing."""
