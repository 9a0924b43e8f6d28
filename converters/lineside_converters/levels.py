"""The steps of each optimization level, as data."""

from __future__ import annotations

import dataclasses
from typing import Literal

from lineside_runtime.errors import ConvertError
from lineside_runtime.precision import FLOAT_PRECISIONS, Precision

CalibrationMethod = Literal["minmax", "entropy", "percentile"]
Activation = Literal["u8s8", "u8s7", "s8s8"]
"""Signedness and bits of activations and weights; ``u8s7`` is for x86 without VNNI (`lineside_runtime.system.vnni`)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LevelOptions:
    """Steps of one level, and the limits of its gates.

    Attributes:
        name: For people and for ``report.json``.
        precision: Precision of the model that comes out.
        calibrations: How ranges are taken from the calibration frames, in the order in which they are tried until
            accuracy holds; empty where nothing is quantised.
        calibration_frames: How many frames at most are calibrated on.
        min_correlation: Least correlation of each output with the source model's; see `parity.check_parity`.
        min_correlation_alone: The same where accuracy can't be compared, so that parity alone decides.
        min_agreement: Least correlation of what the outputs say, a detector's scores and distances, where the head is
            one that can be read: then the outputs as such aren't judged.
        min_agreement_alone: The same where accuracy can't be compared.
        max_slowdown: Largest median ratio of its time a frame to the float model's.
        prunes: Whether channels are removed before that.
        searches: Whether what is taken out, and how the rest is quantised, is searched for.
    """

    level: int
    name: str
    precision: Precision
    calibrations: tuple[CalibrationMethod, ...] = ()
    calibration_frames: int = 64
    min_correlation: float
    min_correlation_alone: float
    min_agreement: float
    min_agreement_alone: float
    max_slowdown: float
    prunes: bool = False
    searches: bool = False

    @property
    def quantizes(self) -> bool:
        """Whether the level calibrates and quantizes."""
        return self.precision not in FLOAT_PRECISIONS

    def least(self, *, judged: bool, read: bool) -> float:
        """Returns the least correlation that passes.

        Args:
            judged: Whether accuracy is compared too.
            read: Whether what the outputs say is compared, rather than the outputs.
        """
        if read:
            return self.min_agreement if judged else self.min_agreement_alone
        return self.min_correlation if judged else self.min_correlation_alone


FLOAT_CONVS: dict[str, int] = {"detection": 3, "classification": 0, "spans": 0, "generic": 0}
"""How many of a graph's first convolutions stay in float, of each eight at most one, by the model's task.

The detector's first three (one channel in, no depth to average errors away) spoil most: in float they raise the worst
output's correlation from 0.57 to 0.70 on drawn and from 0.83 to 0.95 on steel frames, and the whole is faster as well
(0.58 instead of 0.64 of the float model's time at 224 pixels, 0.50 of 0.53 at 640). A classifier's answer doesn't feel
them, and its INT8 is slower with them."""

LEVELS: dict[int, LevelOptions] = {
    # Folding constants moves the last bits only. 1.10 leaves room for noise: nothing was made slower.
    0: LevelOptions(
        level=0,
        name="cleaned float",
        precision="fp32",
        min_correlation=0.9999,
        min_correlation_alone=0.9999,
        min_agreement=0.9999,
        min_agreement_alone=0.9999,
        max_slowdown=1.10,
    ),
    # Per channel, as per-tensor weights lost a quarter of the answers. mAP doesn't feel a detector's worst map (stride
    # 32, where little is seen): it was within 0.005 at a correlation of 0.70. So parity catches what is badly broken,
    # and accuracy decides. What the shipped detector says correlates at 0.993 after INT8, with the weights of one layer
    # shuffled at 0.41 to 0.97, of all layers at 0.11.
    1: LevelOptions(
        level=1,
        name="static INT8, per channel, QDQ",
        precision="int8",
        calibrations=("minmax", "percentile", "entropy"),
        min_correlation=0.5,
        min_correlation_alone=0.9,
        min_agreement=0.9,
        min_agreement_alone=0.95,
        max_slowdown=1.0,
    ),
}
"""The levels that this release has."""

# A pruned network is another network that answers alike: its worst output may differ more where little is found, and
# accuracy decides. Where accuracy can't be compared, it has to answer as nearly as an INT8 model does.
LEVELS[2] = dataclasses.replace(
    LEVELS[1],
    level=2,
    name="pruned by sensitivity, taught by the whole model, static INT8, per channel, QDQ",
    min_correlation=0.3,
    min_agreement=0.7,
    min_agreement_alone=0.9,
    prunes=True,
)
LEVELS[3] = dataclasses.replace(
    LEVELS[2],
    level=3,
    name="searched: pruning, recipe, input size and engine, static INT8, per channel, QDQ",
    searches=True,
)


def level_options(level: int) -> LevelOptions:
    """Returns the options of a level.

    Raises:
        ConvertError: This release has no such level; nothing else is done in its place.
    """
    if level in LEVELS:
        return LEVELS[level]
    known = "; ".join(f"{number}: {recipe.name}" for number, recipe in LEVELS.items())
    raise ConvertError(
        f"optimization level {level!r} is not in this release",
        expected=known,
        actual=level,
        action="Use optimization_level=1 (--level 1).",
    )
