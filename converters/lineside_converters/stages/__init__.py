"""The stages of the optimizer, one a module: each takes the candidate and the context, and returns the candidate.

`clean`, `prune` (levels 2 and 3: with distillation), `quantize` (with calibration), `convert`, `evaluate`, `package`;
`load` opens what they start from.
"""
