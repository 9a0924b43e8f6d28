"""Bytes, waiting and memory of each scheme over a link of a set rate, beside torch's own DDP and FSDP2.

Two workers in network namespaces; the link is shaped until torch's DDP spends 42 % of a step communicating. Then every
case makes one step after the other in turn, with a step of the same network without communication beside it. Bytes are
the interface's own counters, which nothing here counts. With few pictures a step the work of compressing, which doesn't
depend on them, weighs most; so several sizes are measured, each with its own rate. Last, four workers with the second
size and its rate check what two predict.

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
from lineside_converters.training.distributed.sharding.flat_parameters import BUCKET_VALUES

SHARE = 0.42
BATCHES = scaled((16, 32, 64), smoke=(2,))
MORE_WORKERS = scaled(4, smoke=0)
"""That compute beside each other, to check the prediction from two; 0 for none."""

TO = (8, 16, 64, 256, 1024)
"""Workers that are predicted."""

Row = dict[str, Any]


def run() -> Row:
    """Measures with each number of pictures a worker and step, and with more workers."""
    absent = missing()
    if absent is not None:
        return {"left_out": absent}
    found: Row = {f"{batch} pictures": measured(batch) for batch in BATCHES}
    if MORE_WORKERS:
        batch = BATCHES[1]
        two = found[f"{batch} pictures"]
        more = measured(batch, workers=MORE_WORKERS, rate_mbit=two["rate_mbit"])
        found[f"{MORE_WORKERS} workers"] = more
        found["predicted"] = {
            name: {str(workers): _predicted(two, name, workers) for workers in (MORE_WORKERS, *TO)}
            | {"alone_ms": more["cases"][name]["alone_ms"], "measured_ms": more["cases"][name]["step_ms"]}
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
        step_s, alone_s, waited_s = (
            statistics.fmean(middle(each[key]) for each in rows) for key in ("step_s", "alone_s", "waited_s")
        )
        cases[name] = {
            "interface_bytes_a_step": _per_step(rows, "interface_bytes"),
            "reported_bytes_a_step": _per_step(rows, "reported_bytes"),
            "communication_share": 1 - alone_s / step_s,
            "waiting_share": waited_s / (alone_s + waited_s),
            "waited_ms": 1e3 * waited_s,
            "step_ms": 1e3 * step_s,
            "alone_ms": 1e3 * alone_s,
            "memory_mb": statistics.fmean(each["memory_bytes"] for each in rows) / 1e6,
        }
    for name, case in cases.items():
        torchs = cases.get("torch fsdp" if "fsdp" in name else "torch ddp", case)
        case["bytes_of_torch"] = case["interface_bytes_a_step"] / torchs["interface_bytes_a_step"]
    kept = ("network", "values", "rate_mbit", "message_s", "load")
    return {"workers": len(workers), **{key: first[key] for key in kept}, "cases": cases}


def _per_step(rows: list[Row], key: str) -> float:
    return statistics.fmean(each[key] / len(each["step_s"]) for each in rows)


def _predicted(two: Row, name: str, workers: int) -> Row:
    """Predicts the waiting of a step of more workers from that of two."""
    case, growth = two["cases"][name], 2 * (workers - 1) / workers
    buckets = -(-two["values"] // BUCKET_VALUES)
    if name == "local":
        link_s = growth * BlockCodec(4).bytes_of(two["values"]) * 8 / (two["rate_mbit"] * 1e6)
        exchange_s = link_s / FRAGMENTS + 2 * (workers - 1) * two["message_s"]
        late_s = max(0.0, exchange_s - MERGE_AFTER * case["alone_ms"] / 1e3)
        waited_s = case["waited_ms"] / 1e3 + FRAGMENTS * late_s / ROUND_STEPS
    else:
        waited_s = case["waited_ms"] / 1e3 * growth + 2 * buckets * (workers - 2) * two["message_s"]
    step_s = case["alone_ms"] / 1e3 + waited_s
    return {
        "bytes_a_step": case["reported_bytes_a_step"] * growth,
        "waited_ms": 1e3 * waited_s,
        "waiting_share": waited_s / step_s,
    }
