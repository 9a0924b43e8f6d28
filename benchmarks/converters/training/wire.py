"""Bytes, waiting and memory of each scheme over a link of a set rate, beside torch's own DDP and FSDP2.

Two workers in network namespaces; the link is shaped so that torch's DDP waits for 42 % of a step. Then every
case makes one step after the other in turn, with a step of the same network without communication beside it. Bytes are
the interface's own counters, which nothing here counts. With few pictures a step the work of compressing, which doesn't
depend on them, weighs most; so several sizes are measured, each with its own rate. Last, four workers with the second
size and its rate check what two predict.

Beside the seconds of the wall stand what load doesn't change: processor time, bytes, and the time that they take on the
link. ``unloaded_share`` follows from these alone: what of the link's time the backward pass doesn't hide, by the rule
of `lineside_converters.training.distributed.scheme_selection`, of a step that takes its processor time.

The prediction: a worker sends ``(W - 1) / W`` of what its values take, in ``messages * (W - 1)`` messages of
``message_s`` each; what two wait grows as the bytes do, and by the messages that are more. With local updates all of it
is divided by the steps of a round, less what `MERGE_AFTER` steps of computing hide.
"""

from __future__ import annotations

import json
import statistics
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
MORE_WORKERS = scaled(4, smoke=0)
"""That compute beside each other, to check the prediction from two; 0 for none."""

TO = (8, 16, 64, 256, 1024)
"""Workers that are predicted."""

RATES_MBIT = scaled((10, 100, 1000), smoke=(10_000,))
"""Links on which the time to the same accuracy is compared: as many steps, as the accuracy is the same after them."""

MEASURED = ("interface_bytes_a_step", "unloaded_share", "waiting_share", "step_ms", "alone_ms")
RATED = ("torch ddp", "low-rank", "zero1 int8", "zero1 int4", "zero1 low-rank", "local")
Row = dict[str, Any]


def run() -> Row:
    """Measures with each number of pictures a worker and step, and with more workers."""
    absent = missing()
    if absent is not None:
        return {"left_out": absent}
    found: Row = {f"{batch} pictures": measured(batch) for batch in BATCHES}
    batch = BATCHES[len(BATCHES) // 2]
    two = found[f"{batch} pictures"]
    found["rates"] = {
        f"{rate} Mbit/s": {name: _step_at(two, name, rate) for name in RATED if name in two["cases"]}
        for rate in RATES_MBIT
    }
    if MORE_WORKERS:
        more = measured(batch, workers=MORE_WORKERS, rate_mbit=two["rate_mbit"])
        found[f"{MORE_WORKERS} workers"] = more
        found["predicted"] = {
            name: {str(workers): _predicted(two, name, workers) for workers in (MORE_WORKERS, *TO)}
            | {"measured": {key: more["cases"][name][key] for key in MEASURED}}
            for name in ("fp32", "zero1 int4", "local")
        }
    return found | smoked()


def measured(batch: int, *, workers: int = 2, rate_mbit: float = 0.0) -> Row:
    """Runs the workers, and returns what they measured."""
    with link(workers) as all_of_them:
        lines = all_of_them.last_lines("-m", "benchmarks.converters.training.wire_worker", str(batch), str(rate_mbit))
    return joined([json.loads(line) for line in lines])


def joined(workers: list[Row]) -> Row:
    """Joins the workers' rows: medians of their steps (of local updates, whose steps differ, means), means of them."""
    first, cases = workers[0], {}
    for name in first["cases"]:
        rows = [each["cases"][name] for each in workers]
        middle = statistics.fmean if name == "local" else statistics.median
        step_s, waited_s, step_cpu_s = (
            statistics.fmean(middle(each[key]) for each in rows) for key in ("step_s", "waited_s", "step_cpu_s")
        )
        alone_s, alone_cpu_s = (
            statistics.fmean(statistics.median(each[key]) for each in rows) for key in ("alone_s", "alone_cpu_s")
        )
        cases[name] = {
            "interface_bytes_a_step": _per_step(rows, "interface_bytes"),
            "reported_bytes_a_step": _per_step(rows, "reported_bytes"),
            "communication_share": 1 - alone_s / step_s,
            "waiting_share": waited_s / (alone_s + waited_s),
            "waited_ms": 1e3 * waited_s,
            "step_ms": 1e3 * step_s,
            "alone_ms": 1e3 * alone_s,
            "cpu_ms": 1e3 * step_cpu_s,
            "alone_cpu_ms": 1e3 * alone_cpu_s,
            "memory_mb": statistics.fmean(each["memory_bytes"] for each in rows) / 1e6,
        }
    for name, case in cases.items():
        torchs = cases.get("torch fsdp" if "fsdp" in name else "torch ddp", case)
        _add_unloaded(name, case, first)
        case["bytes_of_torch"] = case["interface_bytes_a_step"] / torchs["interface_bytes_a_step"]
    kept = ("network", "values", "rate_mbit", "message_s", "load", "at_rates")
    return {"workers": len(workers), **{key: first[key] for key in kept}, "cases": cases}


def _per_step(rows: list[Row], key: str) -> float:
    return statistics.fmean(each[key] / len(each["step_s"]) for each in rows)


def _add_unloaded(name: str, case: Row, of: Row) -> None:
    """Adds the time on the link, and the share of a step that waits for it on a machine that does nothing else."""
    case["link_ms"] = case["interface_bytes_a_step"] * 8 / of["rate_mbit"] / 1e3
    waited_s = _unloaded_s(name, case, of, of["rate_mbit"])
    case["unloaded_waited_ms"] = 1e3 * waited_s
    case["unloaded_share"] = waited_s / (_computing_s(case) + waited_s)


def _computing_s(case: Row) -> float:
    return float(max(case["alone_cpu_ms"], case["cpu_ms"])) / 1e3


def _step_at(two: Row, name: str, rate_mbit: float) -> Row:
    """Returns what a step takes at another rate, and that measured on such a link where it was."""
    case = two["cases"][name]
    step_s = _computing_s(case) + _unloaded_s(name, case, two, rate_mbit)
    return {"step_ms": 1e3 * step_s, "measured_ms": two["at_rates"].get(str(rate_mbit), {}).get(name)}


def _unloaded_s(name: str, case: Row, of: Row, rate_mbit: float) -> float:
    """Returns what a step waits for the link, in seconds."""
    layout, _, scheme = name.rpartition(" ")
    link_s = float(case["interface_bytes_a_step"] * 8 / (rate_mbit * 1e6))
    if "torch" in name or layout == "fsdp":
        layout, scheme = layout.replace("torch", ""), "fp32"
    update = _update_share(layout, scheme)
    trial = TrialTime(link_s * (1 - update), link_s * update)
    if scheme == "local":
        trial = TrialTime(link_s * ROUND_STEPS)
    alone_s = case["alone_cpu_ms"] / 1e3
    bucket = BUCKET_VALUES * 4 if layout == "zero1" else BUCKET_MB * 2**20
    last = (of["values"] * 4 % bucket or bucket) / (of["values"] * 4)
    if layout == "fsdp":
        return link_s
    return waiting_of(scheme, trial, compute_s=alone_s, backward_s=BACKWARD * alone_s, last_share=last)


def _update_share(layout: str, scheme: str) -> float:
    """Returns what part of the bytes are updates of parameters, which nothing hides."""
    if layout != "zero1":
        return 0.0
    return 0.9 if scheme == "low-rank" else 0.5


def _predicted(two: Row, name: str, workers: int) -> Row:
    """Predicts the waiting of a step of more workers from that of two."""
    case, growth = two["cases"][name], 2 * (workers - 1) / workers  # of the bytes of two
    buckets = -(-two["values"] // BUCKET_VALUES)
    if name == "local":
        link_s = growth * BlockCodec(4).bytes_of(two["values"]) * 8 / (two["rate_mbit"] * 1e6)
        exchange_s = link_s / FRAGMENTS + 2 * (workers - 1) * two["message_s"]
        late_s = max(0.0, exchange_s - MERGE_AFTER * case["alone_cpu_ms"] / 1e3)
        waited_s = FRAGMENTS * late_s / ROUND_STEPS
    else:
        waited_s = case["unloaded_waited_ms"] / 1e3 * growth + 2 * buckets * (workers - 2) * two["message_s"]
    step_s = max(case["cpu_ms"], case["alone_cpu_ms"]) / 1e3 + waited_s
    return {
        "bytes_a_step": case["reported_bytes_a_step"] * growth,
        "waited_ms": 1e3 * waited_s,
        "waiting_share": waited_s / step_s,
    }
