"""A table that is drawn again and again in a terminal, until it is done or somebody presses Ctrl-C."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lineside.commands.shared.output import printable
from lineside.extras import needs

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

REDRAW_S = 1.0
WIDE = 240


def add_watch(parser: argparse.ArgumentParser) -> None:
    """Adds ``--watch`` and ``--json``, which exclude one another."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--watch", action="store_true", help="draw it again every second until Ctrl-C")
    form.add_argument("--json", action="store_true", help="one JSON object on stdout, everything else on stderr")


def draw(look: Callable[[], tuple[RenderableType, bool]], *, watch: bool) -> None:
    """Draws once, or again and again.

    Args:
        look: Returns what to draw, and whether nothing more will change.
        watch: Whether to draw again.
    """
    with needs("convert"):
        from rich.console import Console
        from rich.live import Live
    # A file or another program is no terminal of 80 columns: nothing may be folded or cut there.
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    picture, done = look()
    if not watch or done:
        console.print(picture)
        return
    with Live(picture, console=console, auto_refresh=False) as live:
        while not done:
            time.sleep(REDRAW_S)
            picture, done = look()
            live.update(picture, refresh=True)


def add_row(table: Table, *cells: str) -> None:
    """Adds a row of plain text: what devices say is neither markup nor an escape sequence."""
    from rich.text import Text

    table.add_row(*(Text(printable(cell)) for cell in cells))
