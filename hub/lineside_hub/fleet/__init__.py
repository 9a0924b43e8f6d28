"""Devices and groups: reported state, timeline, and commands."""

__all__ = ["device_commands", "device_timing", "groups", "listing", "status"]
