"""Rollouts of bundles, configurations and agents to groups of devices."""
