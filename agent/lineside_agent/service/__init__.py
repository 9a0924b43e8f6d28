"""The agent as a service of systemd: units, installation, and messages to systemd."""

__all__ = ["install"]
