"""Build everything between the cameras and the records from the configuration, and start it.

| thread | from | to | does |
| --- | --- | --- | --- |
| ``camera``, ``camera 1``, … | first bundle | end of the source | reads one camera's frames into its queue |
| ``pipeline``, ``workers`` of them | start | end of the source | waits for a bundle; inspects, signals, records |
| ``view``, as many | first part, with several cameras | stop | inspect the views of one part |
| ``trigger`` | start, where the line triggers | stop | watches deadlines, the gate, and whether parts may come |
| one a line | start, where the line triggers | stop | reads inputs, or sends what can take time |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import cv2

from lineside_agent.cameras.camera_group import CameraGroup
from lineside_agent.cameras.child import OPEN_TIMEOUT_S
from lineside_agent.cameras.reader import FrameQueue, Reader
from lineside_agent.config import AgentConfig, GateConfig, TriggerConfig
from lineside_agent.health.degradation import DegradationRunner, LatenessCounts, lateness_of
from lineside_agent.health.drift.monitor import DriftMonitor
from lineside_agent.health.result_statistics import ResultStatistics
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.deadline_policy import DeadlinePolicy
from lineside_agent.inspection.frame_sources import LatestFrame, PartFrames, TriggeredFrames
from lineside_agent.inspection.pipeline import InspectionPipeline
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.inspection.views import Capture, frames_of
from lineside_agent.line_io.codes import summarize_defects
from lineside_agent.line_io.events import NO_BUNDLE, DefectSummary, Event, RecipeRefused, RecipeRuns, SelectRecipe
from lineside_agent.line_io.gate import GateSettings
from lineside_agent.line_io.gate_queue import GateQueueFile
from lineside_agent.line_io.handshake import Handshake, HandshakeSettings
from lineside_agent.line_io.opener import open_outputs
from lineside_agent.line_io.trigger_controller import TriggerController
from lineside_agent.line_io.verdict_reporter import VerdictReporter
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.records import RecordStore
from lineside_link.messages import DegradationReport, DriftReport, ResultRow
from lineside_models.frame import Frame
from lineside_runtime.errors import RecipeError

FrameSource = FrameQueue | LatestFrame | TriggeredFrames | PartFrames

ObserveRecord = Callable[[ResultRow, Sequence[Frame]], None]

StartThread = Callable[[str, Callable[[], None]], None]
"""Starts a thread of that name."""

COUNTED_GATE_MS = 10_000.0
"""How long a planned stop waits for an encoder that counts parts to the gate."""

RETIRE_MARGIN_S = 0.5

NUMBERED_LOOK_S = 0.2
"""Time between two checks whether parts can be numbered."""


class InspectionAssembly:
    """The path of a part through one agent, from its cameras to the line and the records.

    Attributes:
        trigger_controller: Handles triggers; ``None`` where the line gives none.
        drift: Watches for changes of the line; ``None`` without a ``[drift]`` table.
        observe_record: Called with each record, after the line was told its verdict, and with its images.

    Args:
        report_drift: Takes each change of the drift report.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        active: ActiveBundle,
        recipes: Recipes,
        store: RecordStore,
        stop: threading.Event,
        report_drift: Callable[[DriftReport], None],
    ) -> None:
        self._config = config
        self._active = active
        self._recipes = recipes
        self._store = store
        self._stop = stop
        self.outputs = open_outputs(config)
        self.statistics = ResultStatistics()
        self.observe_record: ObserveRecord | None = None
        self._frames = self._make_frame_source()
        sinks = self._frames.cameras if isinstance(self._frames, PartFrames) else (self._frames,)
        self.cameras = CameraGroup(config, recipes, sinks, stop)
        self._first_frame = store.next_sequence(self.cameras.source)
        self._first_number = self._next_number()
        self.drift = self._make_drift_monitor(report_drift)
        self._reporter = VerdictReporter(
            self.outputs, self._record, note=store.note, summarize=self._summarize, statistics=self.statistics
        )
        self.trigger_controller = self._make_trigger_controller()
        controller = self.trigger_controller
        self._deadline_policy = DeadlinePolicy() if controller is None else DeadlinePolicy(controller.left_s)
        self.pipeline = self._make_pipeline()

    # Construction.

    def _make_frame_source(self) -> FrameSource:
        config, stop, trigger = self._config, self._stop, self._config.trigger
        if trigger is None:
            return FrameQueue(config.cameras[0].queue, stop, ahead=config.inspect.workers + 1, begin=self._begin)
        if trigger.mode == "watch":
            return LatestFrame(stop, begin=self._begin)
        delay_s = trigger.frame_delay_ms / 1000
        names = [camera.name for camera in config.cameras]
        if len(names) == 1:
            return TriggeredFrames(stop, frame_delay_s=delay_s)
        timeout_s = None if trigger.frame_timeout_ms is None else trigger.frame_timeout_ms / 1000
        return PartFrames(names, stop, frame_timeout_s=timeout_s, frame_delay_s=delay_s)

    def _make_drift_monitor(self, report: Callable[[DriftReport], None]) -> DriftMonitor | None:
        if self._config.drift is None:
            return None
        return DriftMonitor(self._config.folder, self._config.drift, types=self._defect_types, report=report)

    def _make_trigger_controller(self) -> TriggerController | None:
        config, trigger = self._config, self._config.trigger
        if trigger is None or not isinstance(self._frames, (TriggeredFrames, PartFrames)):
            return None
        return TriggerController(
            Handshake(_handshake_settings(trigger, config.gate), next_number=self._first_number),
            frames=self._frames,
            reporter=self._reporter,
            begin=self._begin,
            source=self.cameras.source,
            problem=self._make_problem_check(trigger, self._frames),
            stop=self._stop,
            recipe=lambda: self._recipes.name,
            select=self._recipes.select,
            gate_queue=GateQueueFile(self._store.kill_safe) if config.gate is not None else None,
            is_numbered=self._is_numbered,
        )

    def _make_pipeline(self) -> InspectionPipeline:
        controller = self.trigger_controller
        return InspectionPipeline(
            self._frames.get if controller is None else controller.take,
            self._active,
            reporter=self._reporter,
            stop=self._stop,
            deliver=None if controller is None else controller.deliver,
            observe=self.drift.observe if self.drift is not None else None,
            deadline_policy=self._deadline_policy,
            parallel_views=self._config.inspect.workers,
        )

    def _record(self, row: ResultRow, capture: Capture | None) -> None:
        frames = frames_of(capture, row)
        triggers = self.trigger_controller is not None  # a line that triggers does not wait for the disk
        self._store.record(row, frames, wait=self.cameras.finite and not triggers)
        if self.observe_record is not None:
            self.observe_record(row, frames)

    # Numbers of parts.

    @property
    def _repeats_parts(self) -> bool:
        """Whether a part without a record comes again after a restart; not so from a live camera or a trigger."""
        triggered = self._config.trigger is not None and self._config.trigger.mode == "inspect"
        return self.cameras.finite and not triggered

    def _next_number(self) -> int:
        if self._repeats_parts:
            return self._first_frame
        watches = self._config.trigger is not None and self._config.trigger.mode == "watch"
        return self._store.resume(self.cameras.source, has_gaps=watches)

    def _begin(self, number: int) -> None:
        if not self._repeats_parts:
            self._store.begin(self.cameras.source, number)

    def _is_numbered(self) -> bool:
        """Whether parts may come: no number that they get is given again after a kill."""
        return self._repeats_parts or self._store.numbers.is_reserved(self.cameras.source)

    def _wait_to_read(self) -> bool:
        """Waits until the cameras' frames can be inspected, and be numbered if they are parts; false at the end."""
        if not self._active.wait(self._stop):
            return False
        while self.trigger_controller is None and not self._is_numbered():
            if self._stop.wait(NUMBERED_LOOK_S):
                return False
        return True

    # Readiness.

    def _make_problem_check(self, trigger: TriggerConfig, frames: TriggeredFrames | PartFrames) -> Callable[[], str]:
        """Returns what says why no part may come; it returns an empty text if one may."""
        # That a camera which waits for its own trigger input gives nothing is no problem.
        waits = [bool(getattr(camera, "trigger", "")) for camera in self._config.cameras]
        timeouts_s = [None if one else trigger.camera_timeout_ms / 1000 for one in waits]
        watched = tuple(zip(self.cameras.readers, timeouts_s, strict=True))

        def problem() -> str:
            if self._recipes.problem or self._active.loaded is None:
                return self._recipes.problem or NO_BUNDLE
            if silent := _first_silence(watched):
                return silent
            return "the camera's source has ended" if frames.ended else self._halt_reason(trigger)

        return problem

    def _halt_reason(self, trigger: TriggerConfig) -> str:
        """Why no part may come although parts can be inspected."""
        store = self._store
        if store.numbers.problem:
            return f"part numbers can't be reserved: {store.numbers.problem}"
        if store.problem is not None and trigger.not_ready_when_unrecorded:
            return f"results can't be recorded: {store.problem}"
        return self.drift.problem() if self.drift is not None else ""

    # What others use.

    def _defect_types(self) -> tuple[str, ...]:
        loaded = self._active.loaded
        return () if loaded is None else loaded.bundle.manifest.labels

    def _summarize(self, row: ResultRow) -> DefectSummary:
        loaded = self._active.loaded
        is_current = loaded is not None and loaded.bundle.digest == row.bundle_sha256
        return summarize_defects(row, self._defect_types() if is_current else (), self._config.defect_numbers)

    def prepare_recipe(self) -> None:
        """Waits for the parts under way, and applies the chosen recipe's settings to the cameras."""
        controller = self.trigger_controller
        if not (controller.wait_idle() if controller is not None else not self._stop.is_set()):
            raise RecipeError("the agent stops", action="The requested recipe runs after its next start.")
        self.cameras.follow_recipe(OPEN_TIMEOUT_S)

    def make_degradation(
        self, archive: ImageArchive, report: Callable[[DegradationReport], None]
    ) -> DegradationRunner | None:
        """Returns what reduces the service under heat and lateness; ``None`` without a ``[degrade]`` table."""
        if self._config.degrade is None:
            return None
        return DegradationRunner(
            self._config.degrade,
            archive=archive,
            active=self._active,
            deadline_policy=self._deadline_policy,
            frames=self._frames if isinstance(self._frames, LatestFrame) else None,
            lateness=lateness_of(self._config, self._late_parts, self._dropped_frames),
            report=report,
        )

    def _late_parts(self) -> LatenessCounts:
        if self.trigger_controller is None:
            return LatenessCounts(0, 0)
        counts = self.trigger_controller.machine.counts
        return LatenessCounts(counts.answered, counts.late + self._deadline_policy.hurried)

    def _dropped_frames(self) -> LatenessCounts:
        return LatenessCounts(self.cameras.counts.frames, self.cameras.counts.dropped)

    def report_recipe(self, event: RecipeRuns | RecipeRefused) -> None:
        """Tells the line how a change of the recipe went."""
        if self.trigger_controller is not None:
            self.trigger_controller.post(event, time.monotonic())

    # Start and end.

    def start(self, start: StartThread) -> None:
        """Starts the threads."""
        first = self._first_frame if self.cameras.finite else self._first_number
        for name, read in self.cameras.threads(first, self._wait_to_read).items():
            start(name, read)
        workers = self._config.inspect.workers
        if workers > 1:
            # They have the cores: OpenCV's own threads took 0.3 ms of processor time a frame (640x480) and saved none.
            cv2.setNumThreads(1)
        for _ in range(workers):
            start("pipeline", self.pipeline.run)
        if self.trigger_controller is not None:
            self.trigger_controller.listen()
            start("trigger", self.trigger_controller.run)
        elif self._config.recipe:
            for output in self.outputs:
                output.listen(self._select_recipe)

    def _select_recipe(self, event: Event | SelectRecipe, at_s: float) -> None:
        """Takes an input of a line without triggers, which may only select a recipe."""
        if isinstance(event, SelectRecipe):
            self._recipes.select(event)

    def retire(self) -> None:
        """Ends a triggering line as planned, and waits as long as the last part needs to the gate."""
        trigger, gate = self._config.trigger, self._config.gate
        if self.trigger_controller is None or trigger is None:
            return
        recipes = self._config.recipe
        deadline_ms = max([trigger.deadline_ms, *(one.trigger.deadline_ms or 0.0 for one in recipes)])
        gate_ms = 0.0
        if gate is not None:
            delays_ms = (0.0 if one.gate is None else one.gate.delay_ms or 0.0 for one in recipes)
            gate_ms = max([gate.delay_ms or COUNTED_GATE_MS, *delays_ms]) + gate.pulse_ms
        self.trigger_controller.retire((deadline_ms + gate_ms) / 1000 + RETIRE_MARGIN_S)

    def stop_taking(self) -> None:
        """Takes no more parts; the caller has set ``stop``, and waits for the threads."""
        if self.trigger_controller is not None:
            self.trigger_controller.close()  # first of all: Ready goes, and what is under way is rejected
        self.cameras.end()

    def close(self) -> None:
        """Records what was not inspected, and closes the lines; the store must still be open."""
        self.pipeline.close()
        if not self.cameras.finite:
            self.pipeline.abandon(self._frames.drain())
        for output in self.outputs:
            output.close()


def _handshake_settings(trigger: TriggerConfig, gate: GateConfig | None) -> HandshakeSettings:
    return HandshakeSettings(
        deadline_s=trigger.deadline_ms / 1000,
        debounce_s=trigger.debounce_ms / 1000,
        queue=trigger.queue,
        late_max=trigger.late_max,
        acknowledge=trigger.acknowledge,
        challenge_parts=trigger.challenge_parts,
        gate=None if gate is None else _gate_settings(gate),
    )


def _gate_settings(gate: GateConfig) -> GateSettings:
    delay_s = None if gate.delay_ms is None else gate.delay_ms / 1000
    return GateSettings(delay_s=delay_s, counts=gate.counts, pulse_s=gate.pulse_ms / 1000)


def _first_silence(watched: Sequence[tuple[Reader, float | None]]) -> str:
    """Why one of the cameras gives nothing; empty if all do.

    Args:
        watched: Each reader with the time after which its camera is silent; ``None`` for never.
    """
    for reader, timeout_s in watched:
        if reader.problem is not None:
            return str(reader.problem)
        waiting_since_s = reader.waiting_since_s
        if timeout_s is not None and waiting_since_s is not None and time.monotonic() - waiting_since_s > timeout_s:
            return f"the camera {reader.source} has given nothing for {timeout_s:g} s"
    return ""
