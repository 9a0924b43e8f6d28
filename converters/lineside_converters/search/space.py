"""Search space of level 3, and the widths of a choice.

Every group of channels belongs to a stage: neighbours in the order of the network, stages of equal time. A trial
chooses for each stage the share of its time that is left; inside it the groups are narrowed where their sensitivity
curves say that it hurts least.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from lineside_converters.pruning.layer_cost import LayerCosts
from lineside_converters.pruning.structured import Sensitivity
from lineside_converters.pruning.width_selection import narrow

STAGES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class SearchSpace:
    """Choices of a search.

    Attributes:
        stages: Groups of channels, by stage; each stage has a factor of its own.
        sizes: Sides of the input, as shares of the model's own.
        float_convs: How many first convolutions may stay in float.
        engines: Engines of this machine that read the model.
        blocks: Residual blocks that may be left out, by the names of their additions.
        kernels: Convolutions whose kernel may become 3×3, those of a stage together, with the microseconds that each
            then takes.
        time_line: Milliseconds that every form takes, and the factor on what is predicted by its layers' times.
    """

    stages: tuple[tuple[str, ...], ...]
    sizes: tuple[float, ...]
    methods: tuple[str, ...]
    float_convs: tuple[int, ...]
    engines: tuple[str, ...]
    blocks: tuple[str, ...] = ()
    kernels: Mapping[str, float] = dataclasses.field(default_factory=dict)
    time_line: tuple[float, float] = (0.0, 1.0)

    def kernels_by_stage(self, costs: LayerCosts) -> dict[int, tuple[str, ...]]:
        """Returns the kernels of each stage that has any; those of channels in no stage stay as they are."""
        stage_of = {group: number for number, names in enumerate(self.stages) for group in names}
        found: dict[int, tuple[str, ...]] = {}
        for name in self.kernels:
            for groups in (costs.makers, costs.takers):
                stage = stage_of.get(groups.get(name, ""))
                if stage is not None:
                    found[stage] = (*found.get(stage, ()), name)
                    break
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class SearchChoice:
    """Point of the search space.

    Attributes:
        kept: Of each stage, the share of its time that is to be left.
        size: Share of the input's side.
        float_convs: How many first convolutions stay in float.
        skipped: Residual blocks that are left out.
        cropped: Convolutions whose kernel is 3×3.
    """

    kept: tuple[float, ...]
    size: float
    method: str
    float_convs: int
    engine: str
    skipped: tuple[str, ...] = ()
    cropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns a description."""
        kept = " ".join(f"{share:.2f}" for share in self.kept)
        size = "" if self.size == 1 else f", {self.size:.2f} of the side"
        depth = f", without {len(self.skipped)} blocks" if self.skipped else ""
        kernels = f", {len(self.cropped)} kernels made 3×3" if self.cropped else ""
        return (
            f"kept {kept}{size}{depth}{kernels}, {self.method}, {self.float_convs} convolutions in float, {self.engine}"
        )


def stages_of(found: Sensitivity, called: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Divides the groups into stages of equal time, in the order in which the network computes them."""
    time_of: dict[str, float] = {curve.group: 0.0 for curve in found.groups}
    for layer, us in found.costs.layers_us.items():
        for group in {found.costs.makers.get(layer), found.costs.takers.get(layer)} - {None}:
            time_of[str(group)] += us / 2
    place = {name: number for number, name in enumerate(called)}
    order = sorted(time_of, key=lambda name: place.get(name, len(place)))
    total, at, stage = sum(time_of.values()) or 1.0, 0.0, 0
    stages: list[list[str]] = [[] for _ in range(min(STAGES, len(order)))]
    for name in order:
        stage = min(len(stages) - 1, int(at / total * len(stages)))
        stages[stage].append(name)
        at += time_of[name]
    return tuple(tuple(names) for names in stages if names)


def widths_of(found: Sensitivity, space: SearchSpace, kept: Sequence[float]) -> dict[str, int]:
    """Returns the width of each group where every stage is left with its share of the time, at the least harm.

    What the groups can't give is left: a stage whose channels are at their narrowest keeps more time than was asked.
    """
    costs, curves = found.costs, {curve.group: curve for curve in found.groups}
    layers, widths = costs.layers_of_groups(), dict(costs.full)
    for names, share in zip(space.stages, kept, strict=True):
        mine = {layer for name in names for layer in layers[name]}
        stage_us = sum(us for layer, us in costs.layers_us.items() if layer in mine)
        wanted_us = costs.predict_us(widths) - (1 - share) * stage_us
        widths, _ = narrow(costs, [curves[name] for name in names], widths, wanted_us=wanted_us)
    return widths
