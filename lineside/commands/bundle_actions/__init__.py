"""Actions of ``lineside bundle``."""
