"""Fetching, verifying, staging, activating and rolling back of bundles, configurations and the agent itself."""
