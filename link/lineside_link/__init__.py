"""What both ends of the MQTT link share: topics, messages, client, transfer of bundles, trust."""

__all__ = [
    "age_limit",
    "aggregation",
    "certificates",
    "client",
    "clock",
    "config",
    "interaction_table",
    "log_filter",
    "maintenance_window",
    "messages",
    "result_table",
    "table_export",
    "topics",
    "transfer",
    "trust",
]
