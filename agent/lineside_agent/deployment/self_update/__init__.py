"""The agent's own update, in two slots, supervised by a guard that no update replaces."""

__all__ = ["guard", "pack", "payload"]
