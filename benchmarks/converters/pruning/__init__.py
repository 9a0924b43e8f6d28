"""Level 2 and distillation. What is trained is kept in ``benchmarks/.pruning/``.

A run that was ended goes on where it was. Times are measured at the end of each part: with all trainings kept, that
takes a few minutes, so run a part once more when nothing else runs.
"""
