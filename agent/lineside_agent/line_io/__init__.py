"""Line I/O, one protocol a file."""

from __future__ import annotations

from lineside_agent.line_io.base import LineOutput, LinePort, Post, Signal
from lineside_agent.line_io.opener import ENTRY_POINTS, open_output

__all__ = ["ENTRY_POINTS", "LineOutput", "LinePort", "Post", "Signal", "local", "open_output"]
