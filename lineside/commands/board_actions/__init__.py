"""Actions of ``lineside board``."""
