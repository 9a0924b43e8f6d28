"""Results and frames received from devices: ingest, databases, queries."""

__all__ = ["database", "interactions", "queries"]
