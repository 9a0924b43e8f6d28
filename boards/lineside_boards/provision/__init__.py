"""Provisioning of a board that already runs, over its serial console and SSH."""
