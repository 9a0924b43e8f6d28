"""`StagedPlacement`: serves a bundle whose model is cut, each stage on a device of its own.

It stands where a `Placement` stands, and is made of them: one a stage, so that a stage whose device fails falls back by
the same rules as a whole model does.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from lineside_runtime.bundle import Bundle, Variant
from lineside_runtime.candidates import Candidate
from lineside_runtime.placement import Failures, Placement, Prediction
from lineside_runtime.split.plan import PlacedStage
from lineside_runtime.tensors import Array


@dataclasses.dataclass(frozen=True, slots=True)
class StagedCandidate:
    """What runs the stages, seen as one.

    Attributes:
        candidates: One a stage.
        variant: The variant that is cut.
    """

    candidates: tuple[Candidate, ...]
    variant: Variant

    @property
    def device(self) -> str:
        """The devices, such as ``gpu:0+cpu:0``."""
        return "+".join(str(candidate.device) for candidate in self.candidates)

    def __str__(self) -> str:
        """Returns for example ``ort/cpu:0+openvino/cpu:0``."""
        return "+".join(map(str, self.candidates))


class StagedPlacement:
    """Serves one bundle in stages.

    Attributes:
        bundle: The bundle.
        stages: One placement a stage, in the order in which they run.
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        placed: Sequence[PlacedStage],
        failures: Failures,
        *,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """Loads every stage on the first device that can load it.

        Args:
            bundle: The bundle.
            variant: Its variant that is cut.
            placed: What `plan_stages` gave.
            failures: Where failures are noted.
            on_close: Called after everything is closed.

        Raises:
            LinesideError: A stage can't be loaded anywhere.
        """
        self.bundle = bundle
        self._variant = variant
        self._identity = bundle.manifest.identity
        self._on_close = on_close
        self.flow = Flow(bundle, placed)
        with contextlib.ExitStack() as undo:
            stages = []
            for one in placed:
                stages.append(Placement(one.bundle, one.choice, one.config, failures))
                undo.callback(stages[-1].close)
            undo.pop_all()
        self.stages = tuple(stages)

    @property
    def requested(self) -> StagedCandidate:
        """The first candidate of each stage."""
        return StagedCandidate(tuple(stage.requested for stage in self.stages), self._variant)

    @property
    def leader(self) -> StagedCandidate:
        """What serves each stage now."""
        return StagedCandidate(tuple(stage.leader for stage in self.stages), self._variant)

    def run(self, inputs: Mapping[str, Array]) -> Prediction:
        """Runs the stages one after the other, each on another device if its first ones fail.

        Raises:
            BadInputFormatError: An engine refuses the inputs.
            DeviceError: Every device of a stage failed; the first one's error.
        """
        tensors: Mapping[str, Array] = inputs
        answers = []
        for number, stage in enumerate(self.stages):
            answers.append(stage.run(self.flow.inputs(number, tensors)))
            tensors = self.flow.after(number, tensors, answers[-1].outputs)
        return self.join(answers, tensors)

    def join(self, answers: Sequence[Prediction], tensors: Mapping[str, Array]) -> Prediction:
        """Returns the stages' answers as one.

        Args:
            answers: One a stage.
            tensors: What `Flow.after` gave for the last stage.
        """
        return Prediction(
            outputs=self.flow.outputs(tensors),
            requested_device="+".join(answer.requested_device for answer in answers),
            used_device="+".join(answer.used_device for answer in answers),
            fell_back=any(answer.fell_back for answer in answers),
            inference_ms=sum(answer.inference_ms for answer in answers),
            bundle=self._identity,
        )

    def close(self) -> None:
        """Gives the devices back."""
        for stage in self.stages:
            stage.close()
        if self._on_close is not None:
            self._on_close()


class Flow:
    """Which tensors go from stage to stage; each is let go when its last stage has had it."""

    def __init__(self, bundle: Bundle, placed: Sequence[PlacedStage]) -> None:
        self._needed = [tuple(spec.name for spec in one.stage.inputs) for one in placed]
        self._outputs = tuple(spec.name for spec in bundle.manifest.outputs)
        later = [
            {*self._outputs, *(name for names in self._needed[i + 1 :] for name in names)} for i in range(len(placed))
        ]
        self._kept = [frozenset(names) for names in later]

    def inputs(self, number: int, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Returns what a stage takes of all that is there."""
        return {name: tensors[name] for name in self._needed[number]}

    def after(self, number: int, tensors: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns what is still needed after a stage: of what was there, and of its outputs."""
        kept = self._kept[number]
        return {name: array for name, array in (*tensors.items(), *outputs.items()) if name in kept}

    def outputs(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the model's outputs in the manifest's order."""
        return {name: tensors[name] for name in self._outputs}
