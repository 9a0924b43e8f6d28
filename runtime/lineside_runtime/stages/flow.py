"""Which tensors go from stage to stage, and the answers of all stages as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lineside_runtime.bundle import Bundle
from lineside_runtime.serving.types import Prediction
from lineside_runtime.stages.plan import PlacedStage
from lineside_runtime.tensors import Array


class StageFlow:
    """Which tensors go from stage to stage; each is let go when its last stage has had it."""

    def __init__(self, bundle: Bundle, placed: Sequence[PlacedStage]) -> None:
        self._identity = bundle.manifest.identity
        self._needed = [tuple(spec.name for spec in one.stage.inputs) for one in placed]
        self._outputs = tuple(spec.name for spec in bundle.manifest.outputs)
        later = [
            {*self._outputs, *(name for names in self._needed[i + 1 :] for name in names)} for i in range(len(placed))
        ]
        self._kept = [frozenset(names) for names in later]

    def inputs(self, number: int, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the inputs of a stage."""
        return {name: tensors[name] for name in self._needed[number]}

    def after(self, number: int, tensors: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the tensors that are still needed after a stage."""
        kept = self._kept[number]
        return {name: array for name, array in (*tensors.items(), *outputs.items()) if name in kept}

    def join(self, answers: Sequence[Prediction], tensors: Mapping[str, Array]) -> Prediction:
        """Returns the stages' answers as one."""
        return Prediction(
            outputs={name: tensors[name] for name in self._outputs},
            requested_device="+".join(answer.requested_device for answer in answers),
            used_device="+".join(answer.used_device for answer in answers),
            fell_back=any(answer.fell_back for answer in answers),
            inference_ms=sum(answer.inference_ms for answer in answers),
            bundle=self._identity,
        )
