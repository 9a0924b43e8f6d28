"""Defect types of lineside's detector, in the order of its outputs."""

from __future__ import annotations

STEEL = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
"""Types of NEU-DET, hot-rolled steel strip; the names are the data set's own."""

PCB = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
"""Types of DeepPCB, bare boards; in the order of its numbers 1 to 6."""

LABELS = STEEL + PCB
"""All 12. The order is part of every bundle and every stored result: append, never insert."""
