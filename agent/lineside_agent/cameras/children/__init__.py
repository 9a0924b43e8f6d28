"""Programs that run in a camera's own process, under the system's Python; see `lineside_agent.cameras.child`."""
