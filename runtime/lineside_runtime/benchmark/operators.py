"""Tabulate an engine's profile by operator and by kind of operator."""

from __future__ import annotations

import msgspec

from lineside_runtime.benchmark.measurement.protocol import OperatorRow, Profiled


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class OperatorShare(_Strict, frozen=True, kw_only=True):
    """One operator.

    Attributes:
        kind: Such as ``Conv``.
        name: In the graph that the engine runs.
        calls: How often it was timed.
        mean_us: Mean microseconds of one call.
        share: Of the time of all operators, 0 to 1.
    """

    kind: str
    name: str
    calls: int
    mean_us: float
    share: float


class KindShare(_Strict, frozen=True, kw_only=True):
    """All operators of one kind.

    Attributes:
        kind: Such as ``Conv``.
        calls: How often they were timed, all together.
        mean_us: Mean microseconds of one call.
        us_per_run: Microseconds of all of them in one run of the model.
        share: Of the time of all operators, 0 to 1.
    """

    kind: str
    operators: int
    calls: int
    mean_us: float
    us_per_run: float
    share: float


class Bottleneck(_Strict, frozen=True, kw_only=True):
    """The table, the slowest first.

    Attributes:
        source: Which engine measured it, such as ``ort 1.32.0's own profile``.
        runs: Runs of the model that the operators' times are of.
        run_ms: Median of a run with profiling on, by our clock.
        operators_ms: Sum of the operators' times in one run, by the engine's clock.
        remarks: Limits of the measurement.
    """

    source: str
    runs: int
    run_ms: float
    operators_ms: float
    kinds: tuple[KindShare, ...]
    operators: tuple[OperatorShare, ...]
    remarks: tuple[str, ...] = ()


def bottleneck(profiled: Profiled, engine: str, *, usual_ms: float) -> Bottleneck | None:
    """Makes the table of a profile; ``None`` if the engine has none."""
    total_us = sum(_total_us(row) for row in profiled.operators)
    if not profiled.operators or not total_us:
        return None
    runs = profiled.runs
    return Bottleneck(
        source=f"{engine}'s own profile",
        runs=runs,
        run_ms=profiled.run_ms,
        operators_ms=total_us / runs / 1e3,
        kinds=_kinds(profiled.operators, total_us, runs),
        operators=tuple(
            OperatorShare(
                kind=row.kind, name=row.name, calls=row.calls, mean_us=row.mean_us, share=_total_us(row) / total_us
            )
            for row in sorted(profiled.operators, key=_total_us, reverse=True)
        ),
        remarks=_remarks(profiled, usual_ms),
    )


def _kinds(rows: tuple[OperatorRow, ...], total_us: float, runs: int) -> tuple[KindShare, ...]:
    groups: dict[str, list[OperatorRow]] = {}
    for row in rows:
        groups.setdefault(row.kind, []).append(row)
    found = []
    for kind, group in groups.items():
        calls, spent_us = sum(row.calls for row in group), sum(map(_total_us, group))
        found.append(
            KindShare(
                kind=kind,
                operators=len(group),
                calls=calls,
                mean_us=spent_us / calls,
                us_per_run=spent_us / runs,
                share=spent_us / total_us,
            )
        )
    return tuple(sorted(found, key=lambda one: one.share, reverse=True))


def _remarks(profiled: Profiled, usual_ms: float) -> tuple[str, ...]:
    remarks = []
    if profiled.run_ms > 1.1 * usual_ms:
        slower = f"{profiled.run_ms:.3f} ms a run instead of {usual_ms:.3f}"
        remarks.append(f"profiling slows the model down, {slower}: trust the shares, not the times")
    if not profiled.warm:
        remarks.append("the engine's profile can be read only once, so the runs of the warm-up are in it")
    return tuple(remarks)


def _total_us(row: OperatorRow) -> float:
    return row.calls * row.mean_us
