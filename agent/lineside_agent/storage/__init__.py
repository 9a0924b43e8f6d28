"""Records, images and the outbox of the device, and their limits."""

__all__ = ["images", "record_queries", "verdict_marks"]
