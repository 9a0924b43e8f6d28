"""Bundles on their way to a device: requests, chunks, patches, and their assembly."""
