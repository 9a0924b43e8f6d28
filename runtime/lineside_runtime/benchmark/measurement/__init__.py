"""Processes of the contestants, and the interleaved rounds."""
