"""A model cut in two: stages on two devices, or a trunk for devices and a head for a server."""

__all__ = ["bundle", "linear_head", "timing"]
