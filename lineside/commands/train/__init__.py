"""``lineside train`` and its actions."""

from __future__ import annotations

from lineside.commands.train.command import add_arguments

__all__ = ["add_arguments"]
