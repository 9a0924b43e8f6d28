"""Levels 2 and 3: remove channels, then distil the whole network into the pruned one."""

from __future__ import annotations

import dataclasses

from lineside_converters.candidate import Candidate
from lineside_converters.context import Context
from lineside_converters.pruning.pipeline import prune_model


def prune(candidate: Candidate, context: Context) -> Candidate:
    """Prunes and fine-tunes the float graph; below level 2 nothing is done."""
    if not context.level.prunes:
        return candidate
    result = prune_model(candidate.model, context)
    return dataclasses.replace(candidate, model=result.model, pruning=result)
