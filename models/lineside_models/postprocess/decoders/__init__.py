"""The decoders: one kind of head a file."""
