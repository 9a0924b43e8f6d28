"""What the commands that train say while they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lineside.commands.output import say

if TYPE_CHECKING:
    from lineside_converters.training.config import TrainProgress

SAY_EVERY_S = 10.0


def reporter() -> Callable[[TrainProgress], None]:
    """Returns a listener that prints a line every ten seconds and at every evaluation."""
    said_at_s = -SAY_EVERY_S

    def report(progress: TrainProgress) -> None:
        nonlocal said_at_s
        now_s = time.monotonic()
        if now_s - said_at_s < SAY_EVERY_S and not progress.held:
            return
        said_at_s = now_s
        held = "".join(f"  {name} {value:.3f}" for name, value in progress.held.items())
        say(
            f"epoch {progress.epoch}  step {progress.step} of {progress.steps}  loss {progress.loss:.3f}  "
            f"{progress.elapsed_s:.0f} s, {progress.remaining_s:.0f} s to go{held}"
        )

    return report
