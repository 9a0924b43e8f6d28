"""Synthetic inspection certificates, which reading and extraction are tuned and judged on."""
