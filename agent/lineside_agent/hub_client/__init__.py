"""The device's connection to the hub, its identity, uploads, and the hub's commands."""

__all__ = ["identity"]
