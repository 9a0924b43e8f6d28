"""Puts together what stands between camera and pipeline, as ``[trigger]`` says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from lineside_agent.active import ActiveInspector
from lineside_agent.config import AgentConfig, GateConfig, TriggerConfig
from lineside_agent.line_io import LineOutput, open_output
from lineside_agent.line_io.gate import GateSettings
from lineside_agent.line_io.handshake import Handshake, Settings
from lineside_agent.line_io.local import NAME as LOCAL_NAME
from lineside_agent.line_io.local import LocalPort
from lineside_agent.reader import FrameQueue, Reader
from lineside_agent.recipes import Recipes
from lineside_agent.station import Station
from lineside_agent.triggers import LatestFrame, TriggeredFrames
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from lineside_runtime.errors import ConfigError

Frames = FrameQueue | LatestFrame | TriggeredFrames


def make_frames(config: AgentConfig, stop: threading.Event) -> Frames:
    """Makes what the camera's thread fills.

    Args:
        config: Of the agent.
        stop: Ends its waits.
    """
    trigger = config.trigger
    if trigger is None:
        return FrameQueue(config.camera.queue, stop)
    if trigger.mode == "watch":
        return LatestFrame(stop)
    return TriggeredFrames(stop, frame_delay_s=trigger.frame_delay_ms / 1000)


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
    frames: TriggeredFrames,
    *,
    trigger: TriggerConfig,
    outputs: Sequence[LineOutput],
    record: Callable[[ResultRow, Frame | None], object],
    source: str,
    next_number: int,
    active: ActiveInspector,
    reader: Reader,
    stop: threading.Event,
    recipes: Recipes,
    halt: Callable[[], str] = lambda: "",
) -> Station:
    """Makes the station of a line that triggers.

    Args:
        config: Of the agent.
        frames: What the camera's thread fills.
        trigger: The ``[trigger]`` table.
        outputs: The lines.
        record: Keeps a row, at once.
        source: What the records call the source.
        next_number: Of the first trigger.
        active: Holds the bundle.
        reader: Of the camera.
        stop: Ends it.
        recipes: What the line may change between.
        halt: Says why the line must not go on although parts can be judged; empty if it may.
    """
    waits = bool(getattr(config.camera, "trigger", ""))  # for its own input: that it gives nothing means nothing
    timeout_s = None if waits else trigger.camera_timeout_ms / 1000

    def problem() -> str:
        return recipes.problem or _problem(active, reader, frames, timeout_s) or halt()

    return Station(
        Handshake(_settings(trigger, config.gate), next_number=next_number),
        frames=frames,
        outputs=outputs,
        record=record,
        source=source,
        problem=problem,
        stop=stop,
        recipe=lambda: recipes.name,
        select=recipes.select,
    )


def _settings(trigger: TriggerConfig, gate: GateConfig | None) -> Settings:
    return Settings(
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


def _problem(active: ActiveInspector, reader: Reader, frames: TriggeredFrames, timeout_s: float | None) -> str:
    """Why no part can be judged now; empty if one can."""
    if active.loaded is None:
        return "no bundle runs"
    if reader.problem is not None:
        return str(reader.problem)
    if frames.ended:
        return "the camera's source has ended"
    asked_at_s = reader.asked_at_s
    if timeout_s is not None and asked_at_s is not None and time.monotonic() - asked_at_s > timeout_s:
        return f"the camera has given nothing for {timeout_s:g} s"
    return ""
