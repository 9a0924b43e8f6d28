"""``python -m tests.docs [--check]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.registry import table
from tests.docs import cli, errors, metrics, modbus, schemas

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- generated: {} -->\n", "<!-- end generated -->"

BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "cli": ("docs/reference/cli.md", cli.render),
    "agent.toml": ("docs/reference/agent-toml.md", schemas.render_agent),
    "hub.toml": ("docs/reference/hub-toml.md", schemas.render_hub),
    "topics": ("docs/reference/messages.md", schemas.render_topics),
    "messages": ("docs/reference/messages.md", schemas.render_messages),
    "errors": ("docs/reference/errors.md", errors.render),
    "metrics": ("docs/reference/metrics.md", metrics.render),
    "fleet.metrics": ("docs/reference/metrics.md", metrics.render_fleet),
    "modbus.reads": ("docs/reference/modbus.md", modbus.render_reads),
    "modbus.status": ("docs/reference/modbus.md", modbus.render_status_bits),
    "modbus.codes": ("docs/reference/modbus.md", modbus.render_result_codes),
    "modbus.faults": ("docs/reference/modbus.md", modbus.render_fault_codes),
    "modbus.writes": ("docs/reference/modbus.md", modbus.render_writes),
    "modbus.control": ("docs/reference/modbus.md", modbus.render_control_bits),
    "modbus.coils": ("docs/reference/modbus.md", modbus.render_coils),
    "benchmarks": ("benchmarks/README.md", table),
}
"""Name of a block: page, renderer."""


def rendered() -> Iterator[tuple[Path, str]]:
    """Returns each page with its blocks rendered again.

    Raises:
        ValueError: A page lacks the marker of a block.
    """
    for page in dict.fromkeys(page for page, _ in BLOCKS.values()):
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        for name, (where, render) in BLOCKS.items():
            if where == page:
                before, begin, rest = text.partition(BEGIN.format(name))
                _, end, after = rest.partition(END)
                if not begin or not end:
                    raise ValueError(f"{path}: no block {name}")
                text = f"{before}{begin}\n{render().strip()}\n\n{end}{after}"
        yield path, text


def main(arguments: list[str]) -> int:
    """Renders the pages, or checks them: exit code 1 if one differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.docs", description="Render the reference from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page differs")
    options = parser.parse_args(arguments)
    old = [(path, text) for path, text in rendered() if text != path.read_text(encoding="utf-8")]
    for path, text in old:
        name = path.relative_to(ROOT).as_posix()
        if options.check:
            print(f"{name} differs from the code: run `python -m tests.docs`", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"rendered {name}", file=sys.stderr)
    return 1 if options.check and old else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
