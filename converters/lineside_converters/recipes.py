"""What the `Optimizer` does at a level, as data."""

from __future__ import annotations

import dataclasses
from typing import Literal

from lineside_runtime.errors import ConvertError

CalibrationMethod = Literal["minmax", "entropy", "percentile"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The steps of one level and what each must prove.

    Attributes:
        level: Optimisation level.
        name: For people and for ``report.json``.
        precision: Of the model that comes out.
        calibration: How ranges are taken from the calibration frames; ``None`` where nothing is quantised.
        calibration_frames: How many frames at most are calibrated on.
        float_heads: Whether the nodes that give the graph's outputs stay in float.
        min_correlation: Least correlation of each output with the float model's; see `gates.check_parity`.
        max_slowdown: Largest median ratio of its time a frame to the float model's.
    """

    level: int
    name: str
    precision: Literal["fp32", "int8"]
    calibration: CalibrationMethod | None = None
    calibration_frames: int = 64
    float_heads: bool = False
    min_correlation: float
    max_slowdown: float

    @property
    def variant(self) -> str:
        """Name of the variant's folder in the bundle."""
        return f"onnx-{self.precision}"


RECIPES: dict[int, Recipe] = {
    # Folding constants and batch norms moves the last bits only. 1.10 leaves room for noise: nothing was made slower.
    0: Recipe(level=0, name="cleaned float", precision="fp32", min_correlation=0.9999, max_slowdown=1.10),
    # U8S8 per channel was the fastest of ONNX Runtime's recipes on every network measured, and per-tensor weights lost
    # a quarter of the answers; a percentile gained nothing over the plain range on the detector.
    1: Recipe(
        level=1,
        name="static INT8, U8S8, per channel, QDQ",
        precision="int8",
        calibration="minmax",
        min_correlation=0.95,
        max_slowdown=1.0,
    ),
}
"""The levels that this release has."""

PLANNED = {2: "pruning and distillation before INT8", 3: "architecture search before pruning and INT8"}


def recipe_for(level: int) -> Recipe:
    """Returns the recipe of a level.

    Args:
        level: 0 to 3.

    Raises:
        ConvertError: This release has no such level; nothing else is done in its place.
    """
    if level in RECIPES:
        return RECIPES[level]
    known = "; ".join(f"{number}: {recipe.name}" for number, recipe in RECIPES.items())
    meant = f" ({PLANNED[level]})" if level in PLANNED else ""
    raise ConvertError(
        f"optimization level {level!r}{meant} is not in this release",
        expected=known,
        actual=level,
        action="Use optimization_level=1.",
    )
