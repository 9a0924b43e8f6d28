"""The report of an optimization as JSON, page and model card."""

__all__ = ["report", "templating"]
