"""Build everything between the cameras and the records from the configuration, and start it.

| thread | from | to | does |
| --- | --- | --- | --- |
| ``camera``, ``camera 1``, … | first bundle | end of the source | reads one camera's frames into its queue |
| ``pipeline``, ``workers`` of them | start | end of the source | waits for a bundle; judges, signals, records |
| ``view``, as many | first part, where several cameras see it | stop | judge what the cameras saw of one part |
| ``station`` | start, where the line triggers | stop | watches deadlines, the gate, and whether parts can be judged |
| one a line | start, where the line triggers | stop | reads inputs, or sends what can take time |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import cv2

from lineside_agent.cameras.camera_group import CameraGroup
from lineside_agent.config import AgentConfig
from lineside_agent.health.degradation import DegradationRunner, Pace, pace_of
from lineside_agent.health.drift.monitor import DriftMonitor
from lineside_agent.health.result_statistics import ResultStatistics
from lineside_agent.inspection.active_bundle import ActiveInspector
from lineside_agent.inspection.changeover import Changeover
from lineside_agent.inspection.deadline_policy import DeadlinePolicy
from lineside_agent.inspection.frame_sources import LatestFrame, PartFrames, TriggeredFrames
from lineside_agent.inspection.pipeline import InspectionPipeline
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.inspection.views import Seen, frames_of
from lineside_agent.line_io.assembly import make_frames, make_station, open_lines, sinks_of
from lineside_agent.line_io.codes import summarize_defects
from lineside_agent.line_io.events import DefectSummary, Event, RecipeRefused, RecipeRuns, SelectRecipe
from lineside_agent.line_io.trigger_controller import TriggerController
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.records import RecordStore
from lineside_link.messages import DegradationReport, DriftReport, ResultRow

Start = Callable[[str, Callable[[], None]], None]
"""Starts a thread of that name."""

COUNTED_GATE_MS = 10_000.0
"""How long a planned stop waits for an encoder that counts parts to the gate."""

RETIRE_MARGIN_S = 0.5


class InspectionAssembly:
    """The way of a part through one agent.

    Attributes:
        outputs: The lines.
        rig: The cameras.
        station: Where the line triggers; else ``None``.
        pipeline: What judges.
        statistics: What the line was told.
        drift: What watches whether the line changes; ``None`` where it isn't asked for.

    Args:
        config: Of the agent.
        active: Holds the bundle that runs.
        recipes: What the line may change between.
        store: Keeps the records.
        stop: Ends everything.
        tell_drift: Told what `drift` found.

    Raises:
        LinesideError: A line or a camera can't be had as it is configured.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        active: ActiveInspector,
        recipes: Recipes,
        store: RecordStore,
        stop: threading.Event,
        tell_drift: Callable[[DriftReport], None],
    ) -> None:
        self._config = config
        self._active = active
        self._recipes = recipes
        self._store = store
        self._stop = stop
        self.outputs = open_lines(config)
        self.statistics = ResultStatistics()
        self._frames = make_frames(config, stop, self._begin)
        self.rig = CameraGroup(config, recipes, sinks_of(self._frames), stop)
        self._first_frame = store.next_sequence(self.rig.source)
        self._first = self._first_number()
        self.drift = self._make_drift(tell_drift)
        self.station = self._make_station()
        self._haste = DeadlinePolicy() if self.station is None else DeadlinePolicy(self.station.left_s)
        self.pipeline = self._make_pipeline()

    def _first_number(self) -> int:
        """Of the next record."""
        if self._gives_again:
            return self._first_frame
        watches = self._config.trigger is not None and self._config.trigger.mode == "watch"
        return self._store.resume(self.rig.source, has_gaps=watches)

    @property
    def _gives_again(self) -> bool:
        """Whether a part without a record comes again after a restart; a live camera's and a line's don't."""
        triggered = self._config.trigger is not None and self._config.trigger.mode == "inspect"
        return self.rig.finite and not triggered

    def _begin(self, number: int) -> None:
        if not self._gives_again:
            self._store.begin(self.rig.source, number)

    def _halt(self) -> str:
        """Why no part may come although parts can be judged."""
        store, trigger = self._store, self._config.trigger
        if store.numbers.problem:
            return f"part numbers can't be reserved: {store.numbers.problem}"
        if store.problem is not None and trigger is not None and trigger.not_ready_when_unrecorded:
            return f"results can't be recorded: {store.problem}"
        return self.drift.problem() if self.drift is not None else ""

    def _make_drift(self, tell: Callable[[DriftReport], None]) -> DriftMonitor | None:
        if self._config.drift is None:
            return None
        return DriftMonitor(self._config.folder, self._config.drift, types=self._types, report=tell)

    def _types(self) -> tuple[str, ...]:
        loaded = self._active.loaded
        return () if loaded is None else loaded.bundle.manifest.labels

    def _summarize(self, row: ResultRow) -> DefectSummary:
        loaded = self._active.loaded
        judged = loaded is not None and loaded.bundle.digest == row.bundle_sha256
        return summarize_defects(row, self._types() if judged else (), self._config.defect_numbers)

    def _make_station(self) -> TriggerController | None:
        trigger = self._config.trigger
        if trigger is None or not isinstance(self._frames, (TriggeredFrames, PartFrames)):
            return None
        return make_station(
            self._config,
            self._frames,
            trigger=trigger,
            outputs=self.outputs,
            record=self._record_at_once,
            begin=self._begin,
            next_number=self._first,
            active=self._active,
            rig=self.rig,
            stop=self._stop,
            recipes=self._recipes,
            summarize=self._summarize,
            statistics=self.statistics,
            halt=self._halt,
        )

    def _make_pipeline(self) -> InspectionPipeline:
        station = self.station
        return InspectionPipeline(
            self._frames.get if station is None else station.take,
            self._active,
            outputs=self.outputs,
            record=self._record,
            stop=self._stop,
            deliver=None if station is None else station.deliver,
            observe=self.drift.observe if self.drift is not None else None,
            haste=self._haste,
            at_once=self._config.inspect.workers,
            summarize=self._summarize,
            statistics=self.statistics,
        )

    # -- for those who stand beside it -------------------------------------------------------------------------

    def changeover(self) -> Changeover:
        """Returns what brings the cameras from one product to the next, between two parts."""
        station = self.station
        wait_idle = station.wait_idle if station is not None else lambda: not self._stop.is_set()
        return Changeover(self.rig, wait_idle=wait_idle)

    def degradation(
        self, archive: ImageArchive, report: Callable[[DegradationReport], None]
    ) -> DegradationRunner | None:
        """Returns what gives things up for heat and lateness; ``None`` where it isn't asked for.

        Args:
            archive: Keeps fewer images then.
            report: Told what is given up.
        """
        if self._config.degrade is None:
            return None
        return DegradationRunner(
            self._config.degrade,
            archive=archive,
            active=self._active,
            haste=self._haste,
            frames=self._frames if isinstance(self._frames, LatestFrame) else None,
            pace=pace_of(self._config, self._late_parts, self._dropped_frames),
            report=report,
        )

    def _late_parts(self) -> Pace:
        if self.station is None:
            return Pace(0, 0)
        counts = self.station.machine.counts
        return Pace(counts.answered, counts.late + self._haste.hurried)

    def _dropped_frames(self) -> Pace:
        return Pace(self.rig.counts.frames, self.rig.counts.dropped)

    def tell_recipe(self, event: RecipeRuns | RecipeRefused) -> None:
        """Tells the line how a changeover went.

        Args:
            event: How.
        """
        if self.station is not None:
            self.station.post(event, time.monotonic())

    # -- what runs -----------------------------------------------------------------------------------------------

    def start(self, start: Start) -> None:
        """Starts the threads.

        Args:
            start: Starts one.
        """
        first = self._first_frame if self.rig.finite else self._first
        for name, read in self.rig.threads(first, lambda: self._active.wait(self._stop)).items():
            start(name, read)
        workers = self._config.inspect.workers
        if workers > 1:
            # They have the cores: OpenCV's own threads took 0.3 ms of processor time a frame (640x480) and saved none.
            cv2.setNumThreads(1)
        for _ in range(workers):
            start("pipeline", self.pipeline.run)
        if self.station is not None:
            self.station.listen()
            start("station", self.station.run)
        elif self._config.recipe:
            for output in self.outputs:
                output.listen(self._hear_recipe)

    def _hear_recipe(self, event: Event | SelectRecipe, at_s: float) -> None:
        """On a line without triggers nothing else is heard."""
        if isinstance(event, SelectRecipe):
            self._recipes.select(event)

    def _record(self, row: ResultRow, seen: Seen | None) -> bool:
        finite = self.rig.finite
        return self._store.record(row, frames_of(seen, row), wait=finite)

    def _record_at_once(self, row: ResultRow, seen: Seen | None) -> bool:
        return self._store.record(row, frames_of(seen, row), wait=False)

    def retire(self) -> None:
        """End a triggering line as planned, and wait as long as the last part needs to the gate."""
        trigger, gate = self._config.trigger, self._config.gate
        if self.station is None or trigger is None:
            return
        gate_ms = 0.0 if gate is None else (gate.delay_ms or COUNTED_GATE_MS) + gate.pulse_ms
        self.station.retire((trigger.deadline_ms + gate_ms) / 1000 + RETIRE_MARGIN_S)

    def stop_taking(self) -> None:
        """Takes no more parts; the caller has set ``stop``, and waits for the threads."""
        if self.station is not None:
            self.station.close()  # first of all: Ready goes, and what is under way is rejected
        self.rig.end()

    def close(self) -> None:
        """Records what nobody judged, and closes the lines; the store is still open: what a line triggers is kept."""
        self.pipeline.close()
        if not self.rig.finite:
            self.pipeline.abandon(self._frames.drain())
        for output in self.outputs:
            output.close()
