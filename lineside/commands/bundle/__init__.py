"""``lineside bundle`` and its actions."""

from __future__ import annotations

from lineside.commands.bundle.command import add_arguments

__all__ = ["add_arguments"]
