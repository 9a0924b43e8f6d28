"""Level 3: search over pruned networks."""
