"""Actions of ``lineside hub``."""
