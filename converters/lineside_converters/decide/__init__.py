"""From a stated cost to thresholds: what a miss and a false reject cost, and which thresholds follow from it.

| file | what |
| --- | --- |
| `frames` | which frames are scored, and why these |
| `scoring` | runs the bundle over them |
| `costs` | the arithmetic: rates, costs, the cheapest threshold |
| `reliability` | whether scores are the probabilities that they claim to be |
| `outcomes` | what thresholds do to whole parts, on frames that they were not chosen on |
| `figures` | what comes out, as structs: `decision.json` |
| `choosing` | all of that in order |
| `writing` | a new bundle, or TOML for `lineside push --config` |
| `page`, `pictures` | the same for people |
"""

from __future__ import annotations

from lineside_converters.decide.choosing import decide
from lineside_converters.decide.costs import Costs
from lineside_converters.decide.figures import Decision
from lineside_converters.decide.frames import Request, gather
from lineside_converters.decide.page import write_page
from lineside_converters.decide.writing import (
    check_files,
    check_gain,
    check_place,
    settings_of,
    write_bundle,
    write_figures,
)

__all__ = [
    "Costs",
    "Decision",
    "Request",
    "check_files",
    "check_gain",
    "check_place",
    "decide",
    "gather",
    "settings_of",
    "write_bundle",
    "write_figures",
    "write_page",
]
