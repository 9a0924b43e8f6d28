"""Provisioning of boards: composes the parts of hub, agent and boards."""
