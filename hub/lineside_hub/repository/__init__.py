"""The signed repository: TUF metadata, keys, chunks, deltas, and the answers to devices."""

__all__ = ["backup", "chunks", "keys", "offline_export", "pruning", "repository", "root_ceremony"]
