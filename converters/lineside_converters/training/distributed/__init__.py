__all__ = ["config", "driver"]
