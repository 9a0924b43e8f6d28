"""Marks on parts: codes are read in a region of the frame, and checked against what they must say."""
