"""Work that is divided among the cores of a Ray cluster."""

__all__ = ["connection", "tasks"]
