"""Transfer of bundles to a device: requests, chunks, patches, and their assembly."""

__all__ = ["assembly", "deltas", "multicast", "pace", "pull_window", "repository_client", "transfer"]
