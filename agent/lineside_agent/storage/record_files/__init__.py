"""The files in which records lie, and what waits to be written to them."""
