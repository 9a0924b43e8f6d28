"""The table that the demo ends with."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from lineside.demo.demo import DemoOutcome


def outcome_table(outcome: DemoOutcome) -> None:
    """Prints the outcome on stdout."""
    table = Table(title="lineside demo", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    good = outcome.lost == 0 and outcome.duplicates == 0
    table.add_row("frames", f"{outcome.frames} ({outcome.source})")
    table.add_row("inspected", str(outcome.inspected))
    table.add_row("lost, inspected twice", f"[{'green' if good else 'red'}]{outcome.lost}, {outcome.duplicates}[/]")
    table.add_row("results at the hub", str(outcome.synced))
    for name in outcome.activated:
        table.add_row("activated", f"{name}: judged {outcome.frames_by_bundle.get(name, 0)} frames")
    for refused in outcome.rolled_back:
        table.add_row("rolled back", f"{refused['bundle']}: {refused['reason']}")
    table.add_row("device", f"asked for {outcome.requested_device}, used {outcome.used_device}")
    table.add_row("float", _figures(outcome.float))
    table.add_row("INT8", _figures(outcome.int8))
    Console(highlight=False).print(table)


def _figures(figures: dict[str, Any]) -> str:
    parts = [f"{figures['latency_ms']:.2f} ms", f"{figures['size_bytes'] / 1e6:.2f} MB"]
    if "map50" in figures:
        parts.append(f"mAP@0.5 {figures['map50']:.3f}")
    return ", ".join(parts)
