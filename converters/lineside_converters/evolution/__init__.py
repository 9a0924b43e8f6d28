"""A candidate beside the deployed network: retrained on new frames, searched, and compared with it once.

| file | what |
| --- | --- |
| `pipeline` | retraining, search and comparison, each kept so that a run that was killed goes on |
| `verdict_comparison` | escapes and false rejects of two bundles on the same frames, paired, by part |
| `latency_comparison` | times of two bundles, in turn, here or on a device of the fleet |
| `report` | the result as structs, ``evolution.json``, and whether the candidate is offered |
| `page` | the same for people |
"""

from __future__ import annotations

from lineside_converters.evolution.pipeline import EvolutionSettings, evolve, free_version, refuse_candidate
from lineside_converters.evolution.report import EvolutionReport
from lineside_converters.evolution.verdict_comparison import ComparedError

__all__ = ["ComparedError", "EvolutionReport", "EvolutionSettings", "evolve", "free_version", "refuse_candidate"]
