"""Measure the variants beside the source model."""

from __future__ import annotations

import dataclasses

from lineside_converters.candidate import Candidate
from lineside_converters.context import Context
from lineside_converters.gates.process_measurement import measure_processes
from lineside_converters.gates.remote_timing import RemoteTiming
from lineside_converters.gates.runner import run_gates


def evaluate(candidate: Candidate, context: Context) -> Candidate:
    """Runs the gates, and measures memory and throughput if the caller asked for it."""
    timer = context.limits.clock
    remote = None if timer is None else RemoteTiming(candidate, context, timer)
    evaluation = run_gates(candidate, context, remote)
    evaluation = dataclasses.replace(evaluation, rejected=(*candidate.rejected, *evaluation.rejected))
    candidate = dataclasses.replace(candidate, evaluation=evaluation)
    return measure_processes(candidate, context) if context.limits.memory else candidate
