"""Slimmable training and architecture search. What is trained is kept in ``benchmarks/.search/``.

A run that was ended goes on where it was.
"""
