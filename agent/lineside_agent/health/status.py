"""``status.json``: what the agent does, for people and scripts on the same machine."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lineside_agent.assembly import AgentAssembly
from lineside_agent.deployment.machine import ConfigurationMachine
from lineside_agent.storage.record_files.journal import memory_folder
from lineside_runtime.errors import LinesideError

log = logging.getLogger("lineside.agent")

NAME = "status.json"


def status_place(folder: Path, runtime: str | None = None, *, is_bounded: bool = False) -> Path:
    """Returns the path of the status: in memory where the service manager provides such a folder.

    Written twice a second it would cost a disk 700 MB a day, and on a full disk it would stay old. A link in the state
    folder leads to it.

    Args:
        runtime: Folders in memory, as in systemd's ``RUNTIME_DIRECTORY``.
        is_bounded: Whether a day's writes are limited: then in memory without a service manager, too.
    """
    runtime = os.environ.get("RUNTIME_DIRECTORY", "") if runtime is None else runtime
    link = folder / NAME
    memory = memory_folder(folder, runtime) if is_bounded else Path(runtime.partition(":")[0] or folder)
    if memory == folder or not memory.is_dir():
        if link.is_symlink():
            link.unlink()
        return link
    place = memory / NAME
    if not link.is_symlink() or link.readlink() != place:
        temporary = link.with_name(f".{NAME}.link")
        try:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(place)
            temporary.replace(link)
        except OSError as error:
            log.warning("%s can't lead to %s: %s", link, place, error)
    return place


def write_status(path: Path, status: Mapping[str, Any]) -> None:
    """Writes the file under another name and renames it, without a sync: after a power cut it would be old anyway."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(json.dumps(status, indent=1))
        temporary.replace(path)
    except OSError as error:
        log.debug("%s can't be written: %s", path, error)
        temporary.unlink(missing_ok=True)


def status_of(agent: AgentAssembly, *, source_finished: bool) -> dict[str, Any]:
    """Returns all keys, in the order in which a person looks for them."""
    config, machine, store, inspection = agent.config, agent.updater.reported, agent.storage.store, agent.inspection
    controller = inspection.trigger_controller
    return {
        "device": config.device,
        "group": config.group,
        "state": machine.state,
        "installed": machine.installed.identity if machine.installed else None,
        "previous": machine.previous.identity if machine.previous else None,
        "wanted": machine.wanted.identity if machine.wanted else None,
        "error": machine.error.full_text if machine.error else None,
        "bundle_problem": agent.active.problem or None,
        **agent.recipes.status(),
        "source_finished": source_finished,
        **_inspection(agent),
        "outbox_pending": store.pending,
        **_interactions(agent),
        **_disk(agent),
        "databases_set_aside": store.counts.set_aside,
        "store_problem": _text(store.problem),
        "numbers_problem": store.numbers.problem or None,
        **_lines([output.status() for output in inspection.outputs]),
        "results": inspection.statistics.status(),
        "line": None if controller is None else controller.status(),
        "drift": None if inspection.drift is None else inspection.drift.status(),
        "degradation": None if agent.degradation is None else agent.degradation.status(),
        **agent.hub.status(),
        **_agent(agent),
        **_configuration(agent.configuration.machine),
        "epoch": machine.epoch,
        "gen": machine.gen,
        "boot_id": agent.boot_id,
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


def _configuration(machine: ConfigurationMachine) -> dict[str, Any]:
    return {
        "configuration": machine.installed.sha256 if machine.installed else None,
        "configuration_state": machine.state,
        "configuration_wanted": machine.wanted.identity if machine.wanted else None,
        "configuration_error": machine.error.full_text if machine.error else None,
    }


def _inspection(agent: AgentAssembly) -> dict[str, Any]:
    cameras, pipeline, store = agent.inspection.cameras, agent.inspection.pipeline.counts, agent.storage.store
    counts = cameras.counts
    return {
        "frames": counts.frames,
        "inspected": pipeline.inspected,
        "passed": pipeline.passed,
        "rejected": pipeline.rejected,
        "unsure": pipeline.unsure,
        "faults": pipeline.faults,
        "dropped": counts.dropped,
        "camera_errors": counts.camera_errors,
        "camera_outages": counts.outages,
        "frames_spoiled": counts.spoiled,
        "camera_problem": _text(cameras.problem),
        "cameras": cameras.status(),
        **agent.device_use.status(),
        "latency_ms": round(pipeline.latency_ms, 3),
        "recorded": store.counts.recorded,
        "repeated": store.counts.repeated,
        "lost": store.counts.lost,
    }


def _interactions(agent: AgentAssembly) -> dict[str, Any]:
    """What waits for the hub, and what went beyond the limit before the hub had it; nothing where none are sent."""
    if agent.recommendation is None:
        return {}
    log = agent.recommendation.sent if agent.config.link is not None else None
    if log is None:
        return {}
    return {"interactions_pending": log.pending, "interactions_lost": log.lost}


def _disk(agent: AgentAssembly) -> dict[str, Any]:
    storage, uploads = agent.storage, agent.hub.upload_counts
    images, retention, written = storage.archive.counts, storage.store.retention, storage.write_budget
    return {
        "images_kept": images.kept,
        "images_lost": storage.store.counts.images_lost,
        "images_skipped": images.skipped,
        "images_removed": images.removed,
        "images_bytes": images.bytes,
        "images_problem": storage.archive.problem or None,
        "images_unsent": storage.store.unsent_images,
        "frames_sent": uploads.sent,
        "frames_refused": uploads.refused,
        "frames_missing": uploads.missing,
        "frames_problem": uploads.problem or None,
        "records_bytes": retention.used_bytes,
        "records_removed": retention.removed,
        "commit_every_s": storage.store.commit_every_s,
        "written_bytes": written.written_bytes,
        "written_bytes_ever": written.written_bytes_ever,
        "written_bytes_a_day": written.bytes_a_day,
        "written_problem": written.problem or None,
    }


@functools.cache
def _version() -> str:
    return importlib.metadata.version("lineside")


def _agent(agent: AgentAssembly) -> dict[str, Any]:
    machine = agent.self_updater.reported
    return {
        "ready": agent.watchdog.ready,
        "agent_version": _version(),
        "agent_slot": agent.agent.running_slot,
        "agent_state": machine.state,
        "agent_wanted": machine.wanted.identity if machine.wanted else None,
        "agent_waiting": agent.self_updater.waiting or None,
        "agent_on_trial": agent.agent.on_trial,
        "agent_error": machine.error.full_text if machine.error else None,
    }


def _text(error: LinesideError | None) -> str | None:
    return None if error is None else str(error)
