"""The host's end of the link: signed repository, rollouts, fleet, results, identity."""

__all__ = [
    "alarms",
    "blobs",
    "broker",
    "config",
    "federation",
    "fleet",
    "identity",
    "relabel",
    "repository",
    "results",
    "rollouts",
    "server",
    "simulate",
    "statistics",
    "web",
]
