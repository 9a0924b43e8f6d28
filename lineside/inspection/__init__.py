"""Frame sources of ``lineside inspect`` and ``learn-good``, the inspection of a source, and drawn verdicts."""
