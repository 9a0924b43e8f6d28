"""Slimmable training: one training and one file of weights for several widths of a network."""
