"""Documents on a device: the local socket that reads them."""

__all__ = ["service"]
