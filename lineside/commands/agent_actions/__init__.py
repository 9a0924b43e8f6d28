"""Actions of ``lineside agent``."""
