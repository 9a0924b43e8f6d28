"""The host's end of the link: signed repository, rollouts, fleet, results, identity."""

__all__ = [
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
    "web",
]
