"""Actions of ``lineside fleet``."""
