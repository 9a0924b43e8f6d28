"""``lineside inspect``: what is inspected, the walk over it, and what is drawn."""
