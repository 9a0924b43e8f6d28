"""Removing channels of a network, and training it again."""
