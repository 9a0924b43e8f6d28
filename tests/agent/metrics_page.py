"""Writes the table of ``docs/reference/metrics.md``: ``python -m tests.agent.metrics_page``; a test compares them."""

from __future__ import annotations

from pathlib import Path

from lineside_agent.health.metrics import COUNTERS, HELP, RECENT, RECENT_HELP

PAGE = Path(__file__).parents[2] / "docs/reference/metrics.md"
BEGIN, END = "<!-- metrics -->\n", "<!-- end metrics -->\n"
LABELLED = ("results", "defects", "result_latency_seconds")
"""They have a table of their own."""


def render() -> str:
    """Returns the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    lines = ["", "| metric | type | what |", "| --- | --- | --- |"]
    for key, text in ({key: HELP[key] for key in HELP if key not in LABELLED} | {f"{RECENT}…": RECENT_HELP}).items():
        is_counter = key in COUNTERS
        kind = "counter" if is_counter else "gauge"
        lines.append(f"| `lineside_{key}{'_total' if is_counter else ''}` | {kind} | {text} |")
    return before + BEGIN + "\n".join(lines) + "\n\n" + END + rest.partition(END)[2]


def main() -> None:
    """Writes the page."""
    PAGE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
