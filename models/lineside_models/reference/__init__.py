"""Comparison of frames with a reference: registration, composition, difference, tolerances learned from good parts."""
