"""Fetching, verifying, staging, activating and rolling back of bundles, configurations and the agent itself."""

__all__ = [
    "bundle_check",
    "events",
    "fetch",
    "machine",
    "offline_import",
    "preflight",
    "runner",
    "self_update",
    "slots",
]
