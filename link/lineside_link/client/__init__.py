"""The MQTT client of both ends."""

__all__ = ["client"]
