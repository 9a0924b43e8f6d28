"""The signed repository: TUF metadata, keys, chunks, deltas, and the answers to devices."""
