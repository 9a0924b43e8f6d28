"""Bytes and waiting of each scheme over a link of a set rate, beside torch's own DDP and FSDP2.

Two workers in network namespaces; the link is shaped until torch's DDP spends 42 % of a step communicating. Then every
case makes one step after the other in turn, with a step of the same network without communication beside it. Bytes are
the interface's own counters, which nothing here counts. With few pictures a step the work of compressing, which doesn't
depend on them, weighs most; so both a small batch and one as people train with are measured, each with its own rate.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

from benchmarks.converters.training.namespaces import link, missing, smoked
from benchmarks.smoke import scaled

SHARE = 0.42
BATCHES = scaled((16, 32), smoke=(2,))


def run() -> dict[str, Any]:
    """Measures with each number of pictures a worker and step."""
    absent = missing()
    if absent is not None:
        return {"left_out": absent}
    return {f"{batch} pictures": measured(batch) for batch in BATCHES} | smoked()


def measured(batch: int) -> dict[str, Any]:
    """Runs both workers, and returns what they measured."""
    with link() as both:
        rows = [
            json.loads(line) for line in both.last_lines("-m", "benchmarks.converters.training.wire_worker", str(batch))
        ]
    return joined(*rows)


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Joins both workers' rows: medians of their steps, means over the two."""
    cases = {}
    for name in first["cases"]:
        both = [each["cases"][name] for each in (first, second)]
        shares = [1 - statistics.median(each["alone_s"]) / statistics.median(each["step_s"]) for each in both]
        cases[name] = {
            "interface_bytes_a_step": statistics.mean(each["interface_bytes"] / len(each["step_s"]) for each in both),
            "reported_bytes_a_step": statistics.mean(each["reported_bytes"] / len(each["step_s"]) for each in both),
            "communication_share": statistics.mean(shares),
            "reported_share": statistics.mean(each["reported_share"] for each in both),
            "step_ms": 1e3 * statistics.mean(statistics.median(each["step_s"]) for each in both),
            "alone_ms": 1e3 * statistics.mean(statistics.median(each["alone_s"]) for each in both),
        }
    for name, case in cases.items():
        torchs = cases.get("torch fsdp" if "fsdp" in name else "torch ddp", case)
        case["bytes_of_torch"] = case["interface_bytes_a_step"] / torchs["interface_bytes_a_step"]
    return {"network": first["network"], "rate_mbit": first["rate_mbit"], "load": first["load"], "cases": cases}
