"""``lineside federate`` and its actions."""

from __future__ import annotations

from lineside.commands.federate.command import add_arguments

__all__ = ["add_arguments"]
