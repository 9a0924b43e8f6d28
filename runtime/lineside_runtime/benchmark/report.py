"""The report of a benchmark as structs: its JSON, and the source of the page and the table."""

from __future__ import annotations

import msgspec

from lineside_runtime.benchmark.accuracy import Accuracy
from lineside_runtime.benchmark.machine import Conditions, Machine
from lineside_runtime.benchmark.operators import Bottleneck
from lineside_runtime.benchmark.summary_statistics import LatencySummary, Ratio

SCHEMA = 1


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Memory(_Strict, frozen=True, kw_only=True):
    """Of a process that holds this contestant alone, in MB of 2**20 bytes; a device's own memory isn't in it.

    Attributes:
        peak_mb: Largest resident set until then: median of ``runs`` processes.
        resident_mb: Resident set after ``calls`` calls: median of ``runs`` processes.
        pss_mb: Proportional set size then: less where other processes share its libraries.
        before_mb: Of the resident set, what Python, numpy and lineside hold before the bundle is loaded.
    """

    peak_mb: float
    resident_mb: float
    pss_mb: float
    before_mb: float
    runs: int
    calls: int


class Start(_Strict, frozen=True, kw_only=True):
    """Cold: of a fresh process, its files already in the system's cache.

    Attributes:
        first_result_ms: From the process's start to its first answer: median of ``runs`` processes.
        load_ms: Of that, opening and loading the bundle.
    """

    first_result_ms: float
    load_ms: float
    runs: int


class Result(_Strict, frozen=True, kw_only=True):
    """One contestant.

    Attributes:
        bundle: ``name@version``.
        digest: sha256 of its manifest.
        level: Optimisation level of the variant.
        size_bytes: Of the variant's model file.
        engine: Name and version of the engine that answered.
        threads: Of a call on a CPU; ``None`` where the engine chose.
        batch: Frames in one call.
        streams: Callers at once.
        shapes: Of the inputs of one call.
        requested_device: That the configuration puts first.
        used_devices: Every device that answered, such as ``ort/cpu:0``.
        device_name: What its engine calls it.
        rerouted: Timed and untimed calls that the first choice did not answer.
        fallbacks: Devices and engines that failed, with their reasons.
        warm_up_calls: Calls before the first timed one.
        throughput_fps: Frames a second, all callers together.
        cpu_ms: Processor time for one frame, over all threads.
        turns_ms: Median of each turn, in the order of the rounds.
        memory: ``None`` where this system doesn't tell, or if it was not asked for.
        start: ``None`` if it was not asked for.
        accuracy: ``None`` if it was not measured.
        latency_ratio: Time of a call against the first contestant; ``None`` for that itself.
        throughput_ratio: Frames a second against the first contestant.
        bottleneck: ``None`` if it was not asked for, or if the engine has no profile.
        remarks: Why the times are not to be trusted to the last digit, and what is missing; empty if all is calm.
    """

    name: str
    bundle: str
    digest: str
    variant: str
    precision: str
    level: int
    size_bytes: int
    engine: str
    threads: int | None
    batch: int
    streams: int
    shapes: dict[str, tuple[int, ...]]
    requested_device: str
    used_devices: tuple[str, ...]
    device_name: str
    rerouted: int
    fallbacks: tuple[str, ...]
    warm_up_calls: int
    latency_ms: LatencySummary
    throughput_fps: float
    cpu_ms: float
    turns_ms: tuple[float, ...]
    memory: Memory | None
    start: Start | None
    accuracy: Accuracy | None
    latency_ratio: Ratio | None
    throughput_ratio: Ratio | None
    bottleneck: Bottleneck | None
    remarks: tuple[str, ...]


class LeftOut(_Strict, frozen=True, kw_only=True):
    """A contestant that can't run here."""

    name: str
    code: int
    reason: str


class BenchmarkReport(_Strict, frozen=True, kw_only=True):
    """Results of all contestants, and the conditions.

    Attributes:
        made_at: ISO 8601 time in UTC.
        seconds: The whole benchmark took.
        remarks: What was wrong with the machine meanwhile.
        rounds: Turns of each contestant; in each round all of them have one, in changing order.
        turn_ms: Time of a turn, at least one call.
        warm_up: The rule by which a contestant counts as warm.
        material: What the models were run on.
        baseline: Name of the first contestant, which the ratios are relative to.
        results: One a contestant.
        left_out: What could not run here.
    """

    schema: int = SCHEMA
    made_at: str
    seconds: float
    machine: Machine
    before: Conditions
    after: Conditions
    remarks: tuple[str, ...]
    rounds: int
    turn_ms: float
    warm_up: str
    material: str
    baseline: str
    results: tuple[Result, ...]
    left_out: tuple[LeftOut, ...] = ()

    def to_json(self) -> bytes:
        """Returns the report as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"
