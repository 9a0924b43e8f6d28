"""What both ends of the MQTT link share: topics, messages, client, transfer of bundles, trust."""

__all__ = [
    "aggregation",
    "certificates",
    "client",
    "clock",
    "config",
    "maintenance_window",
    "messages",
    "result_table",
    "topics",
    "transfer",
    "trust",
]
