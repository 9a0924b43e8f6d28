"""Build a `Result` from what the measured processes reported."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from lineside_runtime.benchmark import summary_statistics
from lineside_runtime.benchmark.accuracy import Accuracy
from lineside_runtime.benchmark.measurement.contestants import ContestantEntry
from lineside_runtime.benchmark.measurement.protocol import Profiled, Ready, TurnTimed, WarmUpResult
from lineside_runtime.benchmark.measurement.start_and_memory import FreshRuns
from lineside_runtime.benchmark.operators import Bottleneck, bottleneck
from lineside_runtime.benchmark.report import Result
from lineside_runtime.bundle import Variant


@dataclasses.dataclass(frozen=True, slots=True)
class BenchmarkFinding:
    """Measurements of one contestant."""

    entry: ContestantEntry
    ready: Ready
    warmed: WarmUpResult
    turns: list[TurnTimed]
    profiled: Profiled | None

    @property
    def variant(self) -> Variant:
        """The variant that ran."""
        variants = self.entry.bundle.manifest.variants
        return next((one for one in variants if one.name == self.ready.variant), variants[0])

    @property
    def turns_ms(self) -> list[float]:
        """Median of each turn."""
        return [statistics.median(turn.times_ms) for turn in self.turns]

    @property
    def turns_fps(self) -> list[float]:
        """Frames a second in each turn."""
        return [len(turn.times_ms) * self.entry.contestant.batch / turn.wall_s for turn in self.turns]

    def result(self, baseline: BenchmarkFinding, alone: FreshRuns, accuracy: Accuracy | None) -> Result:
        """Returns the figures; those of the baseline are compared with nothing."""
        one, manifest, ready = self.entry.contestant, self.entry.bundle.manifest, self.ready
        latency = summary_statistics.latency([time for turn in self.turns for time in turn.times_ms])
        frames = latency.calls * one.batch
        compared = self is not baseline
        return Result(
            name=self.entry.name,
            bundle=manifest.identity,
            digest=self.entry.bundle.digest,
            variant=self.variant.name,
            precision=self.variant.precision,
            level=self.variant.level,
            size_bytes=manifest.files[self.variant.file].size,
            engine=self._engine,
            threads=one.config.threads,
            batch=one.batch,
            streams=one.streams,
            shapes=ready.shapes,
            requested_device=ready.requested_device,
            used_devices=_once([ready.used_device, *(device for turn in self.turns for device in turn.used_devices)]),
            device_name=ready.device_name,
            rerouted=self.turns[-1].rerouted,
            fallbacks=ready.fallbacks,
            warm_up_calls=self.warmed.calls,
            latency_ms=latency,
            throughput_fps=frames / sum(turn.wall_s for turn in self.turns),
            cpu_ms=sum(turn.cpu_s for turn in self.turns) * 1e3 / frames,
            turns_ms=tuple(round(time, 5) for time in self.turns_ms),
            memory=alone.memory,
            start=alone.start,
            accuracy=accuracy,
            latency_ratio=summary_statistics.ratio(self.turns_ms, baseline.turns_ms) if compared else None,
            throughput_ratio=summary_statistics.ratio(self.turns_fps, baseline.turns_fps) if compared else None,
            bottleneck=self._bottleneck(latency.p50),
            remarks=self._remarks(latency),
        )

    @property
    def _engine(self) -> str:
        engines = "+".join(part.partition("/")[0] for part in self.ready.used_device.split("+"))
        return f"{engines} {self.ready.engine_version}".strip()

    def _bottleneck(self, usual_ms: float) -> Bottleneck | None:
        return None if self.profiled is None else bottleneck(self.profiled, self._engine, usual_ms=usual_ms)

    def _remarks(self, latency: summary_statistics.LatencySummary) -> tuple[str, ...]:
        found = list(summary_statistics.noise(latency, self.turns_ms))
        if not self.warmed.stable:
            found.insert(0, f"never warm: not stable after {self.warmed.calls} calls")
        if self.profiled is not None and not self.profiled.operators:
            why = (
                "a model in stages is not profiled" if "+" in self.ready.used_device else "no profile of its operators"
            )
            found.append(f"{self._engine}: {why}")
        if self.entry.contestant.config.cache is not None:
            found.append("measured without its result cache, which would have answered the one input at once")
        return tuple(found)


def _once(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
