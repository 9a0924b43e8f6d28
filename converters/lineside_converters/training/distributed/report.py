"""``report.json`` and ``report.html`` of a training run of several workers: what it cost."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lineside_converters.training.distributed.cost import CostReport
from lineside_runtime.files import write_atomic
from lineside_runtime.reports import markup

REPORT, PAGE = "report.json", "report.html"


def write_pages(out: Path, cost: CostReport) -> None:
    """Writes both into a run's folder, each atomically."""
    write_atomic(out / REPORT, msgspec.json.format(msgspec.json.encode(cost), indent=1))
    write_atomic(out / PAGE, page(out.resolve().name, cost).encode())


def page(run: str, cost: CostReport) -> str:
    """Returns the page."""
    rows: list[tuple[str, ...]] = [
        ("workers", str(cost.workers)),
        ("which of them keeps what", f"{cost.layout}: {cost.layout_why}"),
        ("gradients travel as", f"{cost.scheme}: {cost.scheme_why}"),
        ("bytes that a worker sends in a step", f"{cost.bytes_per_step / 1e6:.2f} MB"),
        ("of a step, waiting for others", f"{cost.communication_share:.1%}"),
        ("samples a second, all workers", f"{cost.samples_per_second:.1f}"),
        ("a step", f"{1e3 * cost.step_s:.0f} ms, of which {1e3 * cost.compute_s:.0f} ms are no waiting"),
        ("peak memory of the largest worker", f"{cost.memory_bytes / 1e6:.0f} MB"),
        ("shares of a batch", ", ".join(f"{share:.0%}" for share in cost.shares)),
        ("begun again from a checkpoint", f"{cost.restarts} times"),
        ("measured on", f"{cost.steps} steps"),
    ]
    more: list[tuple[str, ...]] = [
        (
            str(each.workers),
            f"{1e3 * each.step_s:.0f} ms",
            f"{each.bytes_per_step / 1e6:.2f} MB",
            f"{each.communication_share:.1%}",
            f"{each.samples_per_second:.1f}",
        )
        for each in cost.predicted
    ]
    heads = ("workers", "a step", "bytes a worker sends", "waiting", "samples a second")
    predicted = (
        markup.section(
            "More workers, predicted",
            markup.table(heads, more),
            "Workers and links of the same kind, parts of a batch of the same size.",
        )
        if more
        else ""
    )
    title = f"{run}: what training cost"
    body = [markup.header(title), markup.section("Measured", markup.table((), rows, words=(1,))), predicted]
    return markup.document(title, "\n".join(body))
