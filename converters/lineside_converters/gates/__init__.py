"""The gates that a candidate passes before it is packaged: parity, accuracy, speed, baseline."""

__all__ = ["baseline"]
