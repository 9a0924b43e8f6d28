"""The agent's own update, in two slots beside the bundle's, watched by a guard that no update touches."""
