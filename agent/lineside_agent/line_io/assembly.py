"""Build what stands between cameras and pipeline, as ``[trigger]`` says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from lineside_agent.cameras.camera_group import CameraGroup
from lineside_agent.cameras.reader import FrameQueue, Reader
from lineside_agent.config import AgentConfig, GateConfig, TriggerConfig
from lineside_agent.health.result_statistics import ResultStatistics
from lineside_agent.inspection.active_bundle import ActiveInspector
from lineside_agent.inspection.frame_sources import LatestFrame, PartFrames, TriggeredFrames
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.inspection.views import Seen
from lineside_agent.line_io import LineOutput, open_output
from lineside_agent.line_io.events import NO_BUNDLE, DefectSummary
from lineside_agent.line_io.gate import GateSettings
from lineside_agent.line_io.gate_queue import GateQueueFile
from lineside_agent.line_io.handshake import Handshake, HandshakeSettings
from lineside_agent.line_io.local import NAME as LOCAL_NAME
from lineside_agent.line_io.local import LocalPort
from lineside_agent.line_io.trigger_controller import TriggerController
from lineside_link.messages import ResultRow
from lineside_runtime.errors import ConfigError

Frames = FrameQueue | LatestFrame | TriggeredFrames | PartFrames

SHARE_OF_DEADLINE = 0.5
"""That each of several cameras may take to bring its frame, unless ``frame_timeout_ms`` says otherwise."""


def sinks_of(frames: Frames) -> Sequence[FrameQueue | LatestFrame | TriggeredFrames]:
    """Returns what each camera's thread fills."""
    return frames.cameras if isinstance(frames, PartFrames) else (frames,)


def make_frames(config: AgentConfig, stop: threading.Event, begin: Callable[[int], None]) -> Frames:
    """Makes what the cameras' threads fill.

    Args:
        config: Of the agent.
        stop: Ends its waits.
        begin: Told the number of each frame that is a part, before anybody is told of it.
    """
    trigger = config.trigger
    if trigger is None:
        return FrameQueue(config.cameras[0].queue, stop, ahead=config.inspect.workers + 1, begin=begin)
    if trigger.mode == "watch":
        return LatestFrame(stop, begin=begin)
    delay_s = trigger.frame_delay_ms / 1000
    names = [camera.name for camera in config.cameras]
    if len(names) == 1:
        return TriggeredFrames(stop, frame_delay_s=delay_s)
    timeout_ms = trigger.frame_timeout_ms or SHARE_OF_DEADLINE * trigger.deadline_ms
    return PartFrames(names, stop, frame_timeout_s=timeout_ms / 1000, frame_delay_s=delay_s)


def open_lines(config: AgentConfig) -> list[LineOutput]:
    """Makes every line of the configuration, and the local socket where the line triggers or has recipes.

    Args:
        config: Of the agent.

    Raises:
        ConfigError: Two lines are one, or a plugin is none.
    """
    lines = [open_output(line, device=config.device, link=config.link) for line in config.line_io]
    triggers = config.trigger is not None and config.trigger.mode == "inspect"
    if triggers or config.recipe:
        lines.append(LocalPort(config.folder / LOCAL_NAME, triggers=triggers))
    names = [line.name for line in lines]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"$.line_io: {', '.join(sorted(twice))} is there twice")
    return lines


def make_station(
    config: AgentConfig,
    frames: TriggeredFrames | PartFrames,
    *,
    trigger: TriggerConfig,
    outputs: Sequence[LineOutput],
    record: Callable[[ResultRow, Seen | None], object],
    begin: Callable[[int], None],
    next_number: int,
    active: ActiveInspector,
    rig: CameraGroup,
    stop: threading.Event,
    recipes: Recipes,
    summarize: Callable[[ResultRow], DefectSummary],
    statistics: ResultStatistics,
    halt: Callable[[], str],
) -> TriggerController:
    """Makes the station of a line that triggers.

    Args:
        config: Of the agent.
        frames: What the cameras' threads fill.
        trigger: The ``[trigger]`` table.
        outputs: The lines.
        record: Keeps a row, at once.
        begin: As in `TriggerController`.
        next_number: Of the first trigger.
        active: Holds the bundle.
        rig: The cameras.
        stop: Ends it.
        recipes: What the line may change between.
        summarize: As in `TriggerController`.
        statistics: As in `TriggerController`.
        halt: Says why no part may come although parts can be judged; empty if one may.
    """
    # One that waits for its own input: that it gives nothing means nothing.
    waits = [bool(getattr(camera, "trigger", "")) for camera in config.cameras]
    timeouts_s = [None if one else trigger.camera_timeout_ms / 1000 for one in waits]
    watched = tuple(zip(rig.readers, timeouts_s, strict=True))

    def problem() -> str:
        if recipes.problem or active.loaded is None:
            return recipes.problem or NO_BUNDLE
        silent = next((said for reader, timeout_s in watched if (said := _silence(reader, timeout_s))), "")
        ended = "the camera's source has ended" if frames.ended else ""
        return silent or ended or halt()

    return TriggerController(
        Handshake(_settings(trigger, config.gate), next_number=next_number),
        frames=frames,
        outputs=outputs,
        record=record,
        begin=begin,
        source=rig.source,
        problem=problem,
        stop=stop,
        recipe=lambda: recipes.name,
        select=recipes.select,
        gate_queue=GateQueueFile(config.folder) if config.gate is not None else None,
        summarize=summarize,
        statistics=statistics,
    )


def _settings(trigger: TriggerConfig, gate: GateConfig | None) -> HandshakeSettings:
    return HandshakeSettings(
        deadline_s=trigger.deadline_ms / 1000,
        debounce_s=trigger.debounce_ms / 1000,
        queue=trigger.queue,
        late_max=trigger.late_max,
        acknowledge=trigger.acknowledge,
        challenge_parts=trigger.challenge_parts,
        gate=None if gate is None else _gate(gate),
    )


def _gate(gate: GateConfig) -> GateSettings:
    delay_s = None if gate.delay_ms is None else gate.delay_ms / 1000
    return GateSettings(delay_s=delay_s, counts=gate.counts, pulse_s=gate.pulse_ms / 1000)


def _silence(reader: Reader, timeout_s: float | None) -> str:
    """Why a camera gives nothing; empty if it does."""
    if reader.problem is not None:
        return str(reader.problem)
    asked_at_s = reader.asked_at_s
    if timeout_s is not None and asked_at_s is not None and time.monotonic() - asked_at_s > timeout_s:
        return f"the camera {reader.source} has given nothing for {timeout_s:g} s"
    return ""
