"""Frames and their annotations as models read them: for calibration, tuning and evaluation."""
