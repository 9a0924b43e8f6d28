"""``status.json``: what the agent does, for people and scripts on the same machine."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside_agent.cameras.camera_group import CameraGroup
from lineside_agent.config import AgentConfig
from lineside_agent.deployment.machine import BundleMachine
from lineside_agent.deployment.self_update.runner import SelfUpdateRunner
from lineside_agent.health.degradation import DegradationRunner
from lineside_agent.health.drift.monitor import DriftMonitor
from lineside_agent.health.result_statistics import ResultStatistics
from lineside_agent.hub_client.frame_uploads import SenderCounts
from lineside_agent.inspection.active_bundle import ActiveInspector
from lineside_agent.inspection.pipeline import PipelineCounts
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.line_io import LineOutput
from lineside_agent.line_io.trigger_controller import TriggerController
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.records import RecordStore
from lineside_agent.storage.write_budget import WriteBudget
from lineside_link.messages import ConfigReport
from lineside_runtime.errors import LinesideError

if TYPE_CHECKING:
    from lineside_agent.hub_client.client import HubClient

log = logging.getLogger("lineside.agent")

NAME = "status.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the figures come from."""

    config: AgentConfig
    boot_id: str
    machine: BundleMachine
    self_updater: SelfUpdateRunner
    ready: bool
    configuration: ConfigReport
    rig: CameraGroup
    pipeline: PipelineCounts
    store: RecordStore
    archive: ImageArchive
    wear: WriteBudget
    active: ActiveInspector
    recipes: Recipes
    outputs: Sequence[LineOutput]
    statistics: ResultStatistics
    station: TriggerController | None
    drift: DriftMonitor | None
    degradation: DegradationRunner | None
    home: HubClient | None
    finished: bool


def status_place(folder: Path, runtime: str | None = None) -> Path:
    """Returns where the status is written: in memory where the service manager gives such a folder.

    Written twice a second it would cost a disk 700 MB a day, and on a full one it would stay old. In the state folder
    a link leads to it, so that whoever reads it there needn't know.

    Args:
        folder: The state folder.
        runtime: Folders in memory, as systemd's ``RUNTIME_DIRECTORY`` names them.
    """
    runtime = os.environ.get("RUNTIME_DIRECTORY", "") if runtime is None else runtime
    link = folder / NAME
    first = runtime.partition(":")[0]
    if not first or not Path(first).is_dir():
        if link.is_symlink():
            link.unlink()
        return link
    place = Path(first) / NAME
    if not link.is_symlink() or link.readlink() != place:
        temporary = link.with_name(f".{NAME}.link")
        try:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(place)
            temporary.replace(link)
        except OSError as error:
            log.warning("%s can't lead to %s: %s", link, place, error)
    return place


def write_status(path: Path, sources: Sources) -> None:
    """Writes the file under another name and renames it. It isn't synced: after a power cut it would be old anyway.

    Args:
        path: Of the file.
        sources: Where the figures come from.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(json.dumps(_status(sources), indent=1))
        temporary.replace(path)
    except OSError as error:
        log.debug("%s can't be written: %s", path, error)
        temporary.unlink(missing_ok=True)


def _status(sources: Sources) -> dict[str, Any]:
    """All keys, in the order in which a person looks for them."""
    config, machine, store = sources.config, sources.machine, sources.store
    return {
        "device": config.device,
        "group": config.group,
        "state": machine.state,
        "installed": machine.installed.identity if machine.installed else None,
        "previous": machine.previous.identity if machine.previous else None,
        "wanted": machine.wanted.identity if machine.wanted else None,
        "error": None if machine.error is None else f"[{machine.error.code}] {machine.error.message}",
        **sources.recipes.status(),
        **_flow(sources),
        "outbox_pending": store.pending,
        **_disk(sources),
        "databases_set_aside": store.counts.set_aside,
        "store_problem": _text(store.problem),
        "numbers_problem": store.numbers.problem or None,
        **_lines([output.status() for output in sources.outputs]),
        "results": sources.statistics.status(),
        "line": None if sources.station is None else sources.station.status(),
        "drift": None if sources.drift is None else sources.drift.status(),
        "degradation": None if sources.degradation is None else sources.degradation.status(),
        **_link(sources.home),
        **_agent(sources),
        **_configuration(sources.configuration),
        "epoch": machine.epoch,
        "gen": machine.gen,
        "boot_id": sources.boot_id,
        "pid": os.getpid(),
        "updated_at_ns": time.time_ns(),
    }


def _lines(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Each line, and the worst of all for metrics."""
    problems = [f"{line['name']}: {line['problem']}" for line in lines if line["problem"]]
    polled = [line["polled_s_ago"] for line in lines if line.get("polled_s_ago") is not None]
    return {
        "line_io": lines,
        "line_io_problem": "; ".join(problems) or None,
        "plc_polled_s_ago": max(polled, default=None),
    }


def _configuration(report: ConfigReport) -> dict[str, Any]:
    error = report.error
    return {
        "configuration": report.installed.sha256 if report.installed else None,
        "configuration_error": f"[{error.code}] {error.message}" if error else None,
    }


def _flow(sources: Sources) -> dict[str, Any]:
    rig, pipeline, store = sources.rig, sources.pipeline, sources.store
    counts = rig.counts
    loaded = sources.active.loaded
    return {
        "source_finished": sources.finished,
        "frames": counts.frames,
        "inspected": pipeline.inspected,
        "passed": pipeline.passed,
        "rejected": pipeline.rejected,
        "unsure": pipeline.unsure,
        "faults": pipeline.faults,
        "dropped": counts.dropped,
        "camera_errors": counts.camera_errors,
        "camera_outages": counts.outages,
        "camera_problem": _text(rig.problem),
        "cameras": rig.status(),
        "engine_restarts": 0 if loaded is None else loaded.session.engine_restarts,
        "fallbacks": 0 if loaded is None else loaded.session.fallback_count,
        "requested_device": pipeline.requested_device,
        "used_device": pipeline.used_device,
        "latency_ms": round(pipeline.latency_ms, 3),
        "recorded": store.counts.recorded,
        "repeated": store.counts.repeated,
        "lost": store.counts.lost,
    }


def _disk(sources: Sources) -> dict[str, Any]:
    images, room, wear = sources.archive.counts, sources.store.room, sources.wear
    return {
        "images_kept": images.kept,
        "images_lost": sources.store.counts.images_lost,
        "images_skipped": images.skipped,
        "images_removed": images.removed,
        "images_bytes": images.bytes,
        "images_problem": sources.archive.problem or None,
        **_frames(sources),
        "records_bytes": room.used_bytes,
        "records_removed": room.removed,
        "written_bytes": wear.written_bytes,
        "written_bytes_ever": wear.written_bytes_ever,
        "written_bytes_a_day": wear.bytes_a_day,
        "written_problem": wear.problem or None,
    }


def _frames(sources: Sources) -> dict[str, Any]:
    """Images on their way to the hub."""
    sender = sources.home.frames.counts if sources.home is not None else SenderCounts()
    return {
        "images_unsent": sources.store.unsent_images,
        "frames_sent": sender.sent,
        "frames_refused": sender.refused,
        "frames_missing": sender.missing,
        "frames_problem": sender.problem or None,
    }


def _link(home: HubClient | None) -> dict[str, Any]:
    if home is None:
        return {"connected": False, "link_problem": None, "resent": 0, "name_conflicts": 0}
    return {
        "connected": home.client.connected,
        "link_problem": _text(home.problem),
        "resent": home.outbox.resent,
        "name_conflicts": home.name_conflicts,
    }


@functools.cache
def _version() -> str:
    return importlib.metadata.version("lineside")


def _agent(sources: Sources) -> dict[str, Any]:
    machine = sources.self_updater.machine
    return {
        "ready": sources.ready,
        "agent_version": _version(),
        "agent_slot": machine.running_slot,
        "agent_state": machine.state,
        "agent_waiting": sources.self_updater.waiting or None,
        "agent_on_trial": sources.self_updater.on_trial,
        "agent_error": None if machine.error is None else f"[{machine.error.code}] {machine.error.message}",
    }


def _text(error: LinesideError | None) -> str | None:
    return None if error is None else str(error)
