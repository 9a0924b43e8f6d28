"""The agent as a service of systemd: units, installation, and messages to systemd; sockets for programs beside it."""

__all__ = ["install", "line_socket"]
