"""Results and frames received from devices: ingest, databases, queries."""
