"""Actions of ``lineside train``."""
