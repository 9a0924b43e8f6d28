"""Measure on this machine which way of serving a bundle is the best for a stated objective, and keep the result.

`plan_placement` measures the alternatives, `ServingPlan` is the one that was chosen, and a `Session` serves by the plan
that `plan_file` keeps for its bundle and configuration.
"""

from __future__ import annotations

from lineside_runtime.planning.planner import plan_placement
from lineside_runtime.serving.plan_file import forget_plan, plan_file, read_plan, save_plan
from lineside_runtime.serving.serving_plan import (
    AS_CONFIGURED,
    MeasuredAlternative,
    Objective,
    PlacementPlan,
    ServingPlan,
)

__all__ = [
    "AS_CONFIGURED",
    "MeasuredAlternative",
    "Objective",
    "PlacementPlan",
    "ServingPlan",
    "forget_plan",
    "plan_file",
    "plan_placement",
    "read_plan",
    "save_plan",
]
