"""Devices and groups: reported state, timeline, and commands."""
