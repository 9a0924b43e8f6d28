"""Choose thresholds from the stated costs of an escape and of a false reject.

| file | what |
| --- | --- |
| `frames` | which frames are scored, and why these |
| `scoring` | runs the bundle over them |
| `costs` | the arithmetic: rates, costs, the cheapest threshold |
| `reliability` | whether scores are the probabilities that they claim to be |
| `outcomes` | what thresholds do to whole parts, on frames that they were not chosen on |
| `report` | what comes out, as structs: ``decision.json`` |
| `selection` | all of that in order |
| `output` | a new bundle, or TOML for `lineside push --config` |
| `page`, `charts` | the same for people |
"""

from __future__ import annotations

from lineside_converters.bundles.packaging import check_place
from lineside_converters.thresholds.costs import ErrorCosts, RejectTolerance
from lineside_converters.thresholds.frames import FrameRequest, gather_frames
from lineside_converters.thresholds.output import (
    check_files,
    check_gain,
    settings_of,
    write_bundle,
    write_figures,
)
from lineside_converters.thresholds.page import write_page
from lineside_converters.thresholds.report import ThresholdReport
from lineside_converters.thresholds.selection import decide

__all__ = [
    "ErrorCosts",
    "FrameRequest",
    "RejectTolerance",
    "ThresholdReport",
    "check_files",
    "check_gain",
    "check_place",
    "decide",
    "frames",
    "gather_frames",
    "page",
    "recalibration",
    "settings_of",
    "write_bundle",
    "write_figures",
    "write_page",
]
