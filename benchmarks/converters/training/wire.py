"""Bytes, waiting and memory of each scheme over a link of a set rate, beside torch's own DDP.

Two workers in network namespaces; the link is shaped so that torch's DDP waits for 42 % of a step. Every case makes one
step after the other in turn, with a step of the same network without communication beside it. Bytes are the interface's
own counters, which nothing here counts.

Beside the seconds of the wall stand what load doesn't change: processor time, bytes, and the time that they take on the
link. ``waiting`` follows from these alone: what of the link's time the backward pass doesn't hide, by the rule of
`lineside_converters.training.distributed.scheme_selection`, of a step that takes its processor time. Neither bytes nor
the work of compressing depend on the pictures of a step: the cases are measured with the fewest, and of more pictures
the step alone.

The prediction of more workers: a worker sends ``(W - 1) / W`` of what its values take, in ``W - 1`` messages a bucket
and direction; what two wait grows as the bytes do, and by the messages that are more. With local updates all of it is
divided by the steps of a round, less what `MERGE_AFTER` steps of computing hide. Four workers that compute check the
bytes and the processor time.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.converters.training.namespaces import link, missing, smoked
from benchmarks.smoke import scaled
from lineside_converters.training.distributed.gradients.codecs import BlockCodec
from lineside_converters.training.distributed.gradients.local import ROUND_STEPS
from lineside_converters.training.distributed.local_updates import FRAGMENTS, MERGE_AFTER
from lineside_converters.training.distributed.scheme_selection import TrialTime, waiting_of
from lineside_converters.training.distributed.sharding.flat_parameters import BUCKET_VALUES
from lineside_converters.training.distributed.sharding.layout import BUCKET_MB

SHARE = 0.42
BACKWARD = 2 / 3
"""Of a step's computing, the backward pass."""

BATCHES = scaled((16, 32, 64), smoke=(2,))
"""Pictures a worker; the cases are measured with the first of them."""

MORE_WORKERS = scaled(4, smoke=0)
"""That compute beside each other; 0 for none."""

TO = (4, 8, 16, 64, 256, 1024)
"""Workers that are predicted."""

RATES_MBIT = (10, 100, 1000)
"""Links on which a step is compared."""

PREDICTED = ("fp32", "zero1 int4", "local")
Row = dict[str, Any]


def run() -> Row:
    """Measures two workers and more, and predicts."""
    absent = missing()
    if absent is not None:
        return {"left_out": absent}
    two = measured(2)
    middle = BATCHES[len(BATCHES) // 2]
    found = two | {
        "rates": {str(rate): {name: _step_at(two, name, rate, middle) for name in two["cases"]} for rate in RATES_MBIT},
        "predicted": {
            name: {str(workers): _predicted(two, name, workers, BATCHES[0]) for workers in TO} for name in PREDICTED
        },
    }
    if MORE_WORKERS:
        rate = two["batches"][str(BATCHES[0])]["rate_mbit"]
        found[f"{MORE_WORKERS} workers"] = measured(MORE_WORKERS, rate_mbit=rate)
    return found | smoked()


def measured(workers: int, *, rate_mbit: float = 0.0) -> Row:
    """Runs the workers, and returns their figures."""
    with link(workers) as all_of_them:
        lines = all_of_them.last_lines("-m", "benchmarks.converters.training.wire_worker", str(rate_mbit))
    return joined([json.loads(line) for line in lines])


def joined(workers: list[Row]) -> Row:
    """Joins the workers' rows: medians of their steps (of local updates, whose steps differ, means), means of them."""
    first, cases = workers[0], {}
    batches: dict[str, Row] = {
        batch: {key: _mean(each["batches"][batch][key] for each in workers) for key in of}
        for batch, of in first["batches"].items()
    }
    for name in first["cases"]:
        rows = [each["cases"][name] for each in workers]
        middle = statistics.fmean if name == "local" else statistics.median
        step_s, waited_s, step_cpu_s, alone_s, alone_cpu_s = (
            _mean((middle if "step" in key or "waited" in key else statistics.median)(each[key]) for each in rows)
            for key in ("step_s", "waited_s", "step_cpu_s", "alone_s", "alone_cpu_s")
        )
        cases[name] = {
            "interface_bytes_a_step": _mean(each["interface_bytes"] / len(each["step_s"]) for each in rows),
            "reported_bytes_a_step": _mean(each["reported_bytes"] / len(each["step_s"]) for each in rows),
            "memory_mb": _mean(each["memory_bytes"] for each in rows) / 1e6,
            "added_cpu_ms": 1e3 * (step_cpu_s - alone_cpu_s),
            "step_ms": 1e3 * step_s,
            "alone_ms": 1e3 * alone_s,
            "waited_ms": 1e3 * waited_s,
        }
    found = {key: first[key] for key in ("network", "values", "message_s", "load", "at_rates")}
    found |= {"workers": len(workers), "batches": batches, "cases": cases}
    for name, case in cases.items():
        case["bytes_of_torch"] = case["interface_bytes_a_step"] / cases["torch ddp"]["interface_bytes_a_step"]
        for batch, of in batches.items():
            waited_s = _unloaded_s(found, name, of["rate_mbit"], batch)
            alone_s, added_s = of["alone_cpu_ms"] / 1e3, max(0.0, case["added_cpu_ms"] / 1e3)
            case[f"waiting_{batch}"] = waited_s / (alone_s + added_s + waited_s)
            case[f"communicating_{batch}"] = (waited_s + added_s) / (alone_s + added_s + waited_s)
    return found


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _step_at(two: Row, name: str, rate_mbit: float, batch: int) -> Row:
    """Returns a step's time at another rate: predicted, and measured if such a link was."""
    step_s = _computing_s(two, name, batch) + _unloaded_s(two, name, rate_mbit, str(batch))
    return {"step_ms": 1e3 * step_s, "measured_ms": two["at_rates"].get(str(rate_mbit), {}).get(name)}


def _computing_s(two: Row, name: str, batch: int) -> float:
    added_ms = max(0.0, two["cases"][name]["added_cpu_ms"])
    return float(two["batches"][str(batch)]["alone_cpu_ms"] + added_ms) / 1e3


def _unloaded_s(of: Row, name: str, rate_mbit: float, batch: str) -> float:
    """Returns the seconds that a step waits for the link."""
    sent, alone_s = of["cases"][name]["interface_bytes_a_step"], of["batches"][batch]["alone_cpu_ms"] / 1e3
    return waited_s(name, sent, of["values"], rate_mbit=rate_mbit, alone_s=alone_s)


def waited_s(name: str, bytes_a_step: float, values: int, *, rate_mbit: float, alone_s: float) -> float:
    """Returns the seconds that a step of a case waits for a link.

    Args:
        name: Layout and scheme, such as ``zero1 int4``; a scheme alone is one of DDP.
        bytes_a_step: That a worker sends, on average.
        values: Of the network.
        alone_s: Of the step's computing.
    """
    link_s = bytes_a_step * 8 / (rate_mbit * 1e6)
    layout, _, scheme = name.rpartition(" ")
    if layout == "fsdp":
        return link_s
    if name == "torch ddp":
        layout, scheme = "ddp", "fp32"
    update = 0.0 if layout != "zero1" else 0.9 if scheme == "low-rank" else 0.5
    trial = TrialTime(link_s * (1 - update), link_s * update)
    if scheme == "local":
        trial = TrialTime(link_s * ROUND_STEPS)
    bucket = BUCKET_VALUES * 4 if layout == "zero1" else BUCKET_MB * 2**20
    last = (values * 4 % bucket or bucket) / (values * 4)
    return waiting_of(scheme, trial, compute_s=alone_s, backward_s=BACKWARD * alone_s, last_share=last)


def _predicted(two: Row, name: str, workers: int, batch: int) -> Row:
    """Predicts the waiting of a step of more workers from that of two."""
    growth, rate = 2 * (workers - 1) / workers, two["batches"][str(batch)]["rate_mbit"]
    computing_s, message_s = _computing_s(two, name, batch), two["message_s"]
    if name == "local":
        link_s = growth * BlockCodec(4).bytes_of(two["values"]) * 8 / (rate * 1e6)
        exchange_s = link_s / FRAGMENTS + 2 * (workers - 1) * message_s
        waited_s = FRAGMENTS * max(0.0, exchange_s - MERGE_AFTER * computing_s) / ROUND_STEPS
    else:
        buckets = -(-two["values"] // BUCKET_VALUES)
        waited_s = _unloaded_s(two, name, rate, str(batch)) * growth + 2 * buckets * (workers - 2) * message_s
    return {
        "bytes_a_step": two["cases"][name]["reported_bytes_a_step"] * growth,
        "waited_ms": 1e3 * waited_s,
        "waiting_share": waited_s / (computing_s + waited_s),
    }
