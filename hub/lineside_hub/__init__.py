"""The host's end of the link: signed repository, wishes out, results in."""
