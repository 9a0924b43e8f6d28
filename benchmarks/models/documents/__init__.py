"""Documents: what is read, and what is found in it."""
