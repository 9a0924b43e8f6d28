"""A benchmark whose module lies outside this repository, where no check that runs beside the tests finds it."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.registry import Benchmark


@dataclass(frozen=True, slots=True)
class WrittenBenchmark(Benchmark):
    """A benchmark that a test writes: its name is that of a module on ``sys.path``."""

    @property
    def module(self) -> str:
        return self.name
