"""``lineside board provision``: where the hub's, the agent's and the boards' parts of it are put together."""
