"""Line I/O, one protocol a file. A protocol is imported when the configuration names it."""

from __future__ import annotations

from lineside_agent import config as settings
from lineside_agent.line_io.base import LineOutput, Signal

__all__ = ["LineOutput", "Signal", "open_output"]


def open_output(config: settings.SerialOutput) -> LineOutput:
    """Makes the output that the configuration describes; it is opened at the first signal.

    Args:
        config: One ``[[line_io]]`` table.
    """
    from lineside_agent.line_io.serial_ import SerialOutput

    return SerialOutput(config.port, baud=config.baud, timeout_s=config.timeout_s)
