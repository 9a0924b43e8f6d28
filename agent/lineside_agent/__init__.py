"""The daemon on the device: cameras, inspection, line I/O, storage, deployment, health, operator screen."""

__all__ = [
    "cameras",
    "config",
    "daemon",
    "deployment",
    "documents",
    "health",
    "hub_client",
    "inspection",
    "line_io",
    "recommendation",
    "screen",
    "service",
    "storage",
]
