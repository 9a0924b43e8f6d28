"""Rollouts of bundles, configurations and agents to groups of devices."""

__all__ = ["published_bundles", "push", "runner"]
