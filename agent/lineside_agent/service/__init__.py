"""The agent as a service of systemd: its units, their installation, and what the agent says to systemd."""
