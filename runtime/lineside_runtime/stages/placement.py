"""Serve a bundle whose model is split into stages, each stage on its own device.

It has the interface of a `Placement` and consists of one for each stage, so that a stage whose device fails falls back
by the same rules as a whole model does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from lineside_runtime.bundle import Bundle, Variant
from lineside_runtime.serving.candidates import PlacementCandidate
from lineside_runtime.serving.health import Failures
from lineside_runtime.serving.placement import Placement
from lineside_runtime.serving.types import DeviceShare, Prediction
from lineside_runtime.stages.flow import StageFlow
from lineside_runtime.stages.plan import PlacedStage
from lineside_runtime.tensors import Array

if TYPE_CHECKING:
    from lineside_runtime.serving.submit import SubmitCounters
    from lineside_runtime.stages.pipeline import StagePipeline


@dataclasses.dataclass(frozen=True, slots=True)
class StagedCandidate:
    """The candidates of all stages, as one.

    Attributes:
        candidates: One a stage.
    """

    candidates: tuple[PlacementCandidate, ...]
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
        stages: One placement a stage, in the order in which they run.
    """

    def __init__(
        self,
        bundle: Bundle,
        placed: Sequence[PlacedStage],
        failures: Failures,
        *,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """Loads every stage on the first device that can load it.

        Raises:
            LinesideError: A stage can't be loaded anywhere.
        """
        self.bundle = bundle
        self._placed = tuple(placed)
        self._variant = placed[0].variant
        self._on_close = on_close
        self._flow = StageFlow(bundle, placed)
        with contextlib.ExitStack() as undo:
            stages = []
            for one in placed:
                stages.append(Placement(one.bundle, one.choice, one.config, failures))
                undo.callback(stages[-1].close)
            undo.pop_all()
        self.stages = tuple(stages)
        self._starting = threading.Lock()
        self._pipeline: StagePipeline | None = None

    @property
    def requested(self) -> StagedCandidate:
        """The first candidate of each stage."""
        return StagedCandidate(tuple(stage.requested for stage in self.stages), self._variant)

    @property
    def requested_device(self) -> str:
        """The devices that were asked for, such as ``npu:0+cpu:0``."""
        return "+".join(stage.requested_device for stage in self.stages)

    @property
    def leader(self) -> StagedCandidate:
        """What serves each stage now."""
        return StagedCandidate(tuple(stage.leader for stage in self.stages), self._variant)

    @property
    def candidates(self) -> tuple[StagedCandidate, ...]:
        """What may have answered a call: the first choices, and what serves now."""
        return tuple({str(one): one for one in (self.requested, self.leader)}.values())

    @property
    def firsts(self) -> tuple[StagedCandidate, ...]:
        """What a call is given first as things are."""
        return (self.leader,)

    @property
    def shares(self) -> tuple[DeviceShare, ...]:
        """How much each device of each stage does, such as ``backbone on ort/cpu:0``."""
        return tuple(
            msgspec.structs.replace(share, device=f"{one.stage.name} on {share.device}")
            for one, stage in zip(self._placed, self.stages, strict=True)
            for share in stage.shares
        )

    @property
    def standby_device(self) -> str | None:
        """The standby devices of the stages, such as ``openvino/cpu:0+ort/cpu:0``; ``None`` if no stage has one."""
        found = [device for device in (stage.standby_device for stage in self.stages) if device is not None]
        return "+".join(found) or None

    def dispatcher(self, counters: SubmitCounters, on_answer: Callable[[Prediction], None]) -> StagePipeline:
        """Returns what serves submitted calls, made with the first one."""
        if self._pipeline is None:
            from lineside_runtime.stages.pipeline import StagePipeline  # only who submits pays for it

            with self._starting:
                if self._pipeline is None:
                    config = self._placed[0].config
                    self._pipeline = StagePipeline(
                        self.stages,
                        self._flow,
                        counters,
                        workers=config.submit_workers,
                        queue_size=config.submit_queue,
                        on_answer=on_answer,
                    )
        return self._pipeline

    def run(self, inputs: Mapping[str, Array]) -> Prediction:
        """Runs the stages one after the other, each on another device if its first ones fail.

        Raises:
            BadInputFormatError: An engine refuses the inputs.
            DeviceError: Every device of a stage failed; the first one's error.
        """
        tensors: Mapping[str, Array] = inputs
        answers = []
        for number, stage in enumerate(self.stages):
            answers.append(stage.run(self._flow.inputs(number, tensors)))
            tensors = self._flow.after(number, tensors, answers[-1].outputs)
        return self._flow.join(answers, tensors)

    def keep(self, device: str, outputs: Mapping[str, Array]) -> None:
        """Keeps nothing on a device: outputs of several stages may come from several."""

    def close(self) -> None:
        """Gives the devices back."""
        if self._pipeline is not None:
            self._pipeline.close()
        for stage in self.stages:
            stage.close()
        if self._on_close is not None:
            self._on_close()
