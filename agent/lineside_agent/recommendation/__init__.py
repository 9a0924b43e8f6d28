"""Recommendation on a device: the local socket, and the interactions that it keeps."""

__all__ = ["interaction_log", "service"]
