"""A table that is drawn again and again in a terminal, until it is done or somebody presses Ctrl-C."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lineside.extras import needs

if TYPE_CHECKING:
    from rich.console import RenderableType

REDRAW_S = 1.0


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
    console = Console()
    picture, done = look()
    if not watch or done:
        console.print(picture)
        return
    with Live(picture, console=console, auto_refresh=False) as live:
        while not done:
            time.sleep(REDRAW_S)
            picture, done = look()
            live.update(picture, refresh=True)
