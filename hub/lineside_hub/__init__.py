"""The host's end of the link: signed repository, desired states out, results in."""
