"""A model in two stages on two devices."""

__all__ = ["bundle", "timing"]
