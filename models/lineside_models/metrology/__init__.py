"""Measurement of parts in frames: calibration, sub-pixel edges, rules with tolerances, and studies of the gauge."""
