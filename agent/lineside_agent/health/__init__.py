"""Liveness, degradation, drift, and how the device reports its state: status, metrics, doctor."""

__all__ = ["doctor", "drift", "pushed_artifacts"]
