"""``report.json`` and ``report.html`` of a run of several workers: what it cost. One file without script."""

from __future__ import annotations

import html
from pathlib import Path

import msgspec

from lineside_converters.training.distributed.cost import CostReport
from lineside_runtime.benchmark.pages.style import STYLE
from lineside_runtime.files import write_atomic

REPORT, PAGE = "report.json", "report.html"


def write_pages(out: Path, cost: CostReport) -> None:
    """Writes both into a run's folder, each whole or not at all."""
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
        "<h2>More workers, predicted</h2><p>Workers and links of the same kind, parts of a batch of the same size.</p>"
        + _table([heads, *more], head=True)
        if more
        else ""
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(run)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>'
        f"<h1>{html.escape(run)}: what training cost</h1>{_table(rows)}{predicted}</main></body></html>\n"
    )


def _table(rows: list[tuple[str, ...]], *, head: bool = False) -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = "th" if head and number == 0 else "td"
        lines.append("<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"
