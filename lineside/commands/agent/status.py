"""``lineside agent status``."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

from lineside.console import inform, print_json, show
from lineside.options import Actions, add_agent_config, add_json
from lineside_runtime.errors import InputNotFoundError
from lineside_runtime.wording import counted

LABELS = {"state": "bundle_state", "ready": "has_judged", "error": "bundle_error"}
"""Keys of ``status.json`` that are shown under a clearer name."""

LIVE = ("line", "lines", "hub")
"""Labels of states that hold while the agent runs."""

Status = Mapping[str, Any]
Lines = Iterator[tuple[str, str]]
"""Label and text; an empty label continues the one before."""


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "status", help="show the state of the agent on this machine", description="Reads the agent's status file."
    )
    add_agent_config(parser)
    parser.add_argument("--all", action="store_true", help="print every value of the status file")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the agent's status file, with a warning if it is stale."""
    from lineside_agent.config import read_config
    from lineside_agent.health.doctor import STALE_S, is_held

    folder = read_config(options.config).folder
    path = folder / "status.json"
    if not path.is_file():
        raise InputNotFoundError(f"{path} is not there", action="Start the agent with `lineside agent run` first.")
    status: dict[str, Any] = json.loads(path.read_text())
    status["age_s"] = round(time.time() - path.stat().st_mtime, 1)
    status["stale"] = status["age_s"] > STALE_S
    status["runs"] = is_held(folder)
    if options.json:
        print_json(status)
        return 0
    lines = [(LABELS.get(key, key), text) for key, text in _flattened(status)] if options.all else [*_stated(status)]
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        show(f"{label:<{width}}  {text}")
    if status["stale"]:
        free_mib = shutil.disk_usage(folder).free / 2**20
        why = f"it runs, and {free_mib:.1f} MiB are free" if status["runs"] else "it does not run"
        inform(f"! stale: the agent wrote this {status['age_s']:.0f} s ago ({why}); the values may be outdated")
    return 0


def _stated(status: Status) -> Lines:
    """Yields the summary; states of an agent that does not run or no longer writes are those of its last status."""
    outdated = status["stale"] or not status["runs"]
    for label, text in _summary(status):
        yield label, f"last known: {text}" if outdated and label in LIVE else text


def _summary(status: Status) -> Lines:
    version = f", agent {status['agent_version']}" if status.get("agent_version") else ""
    runs = "runs" if status["runs"] else "does not run"
    group = f" of group {status['group']}" if status.get("group") else ""
    age_s = status["age_s"]
    written = f"{age_s:.1f} s ago" if age_s >= 0 else f"{-age_s:.1f} s ahead of this clock, which was put back"
    yield "device", f"{status.get('device')}{group}{version}; {runs}, written {written}"
    yield from _line(status)
    yield from _bundle(status)
    yield from _parts(status)
    yield from _ports(status)
    yield from _hub(status)
    yield from _disk(status)
    yield from _watches(status)
    problems = [str(value) for key, value in status.items() if key.endswith("_problem") and value]
    for place, problem in enumerate(dict.fromkeys(problems)):
        yield "" if place else "problems", problem


def _line(status: Status) -> Lines:
    line = status.get("line")
    if line is None:
        yield "line", "does not trigger: each frame is a part"
    elif line.get("fault"):
        yield "line", f"at fault {line['fault']}: every part is rejected until `lineside agent trigger --reset`"
    elif line.get("problem"):
        yield "line", f"not ready: {line['problem']}"
    elif line.get("challenge_left"):
        yield "line", f"{counted(line['challenge_left'], 'challenge part')} must be rejected first"
    elif line.get("ready"):
        yield "line", "ready"
    else:
        busy = line.get("answered", 0) < line.get("triggers", 0)
        yield "line", f"not ready{': a part is under way' if busy else ''}"
    if status.get("recipe"):
        yield "recipe", f"{status['recipe']} (of {', '.join(status.get('recipes', ()))})"


def _bundle(status: Status) -> Lines:
    from lineside_agent.health.pushed_artifacts import pushed_problems

    installed, wanted, state = status.get("installed"), status.get("wanted"), status.get("state")
    text = installed or "none"
    if wanted and wanted != installed:
        text += f"; {wanted} is desired: {state}"
    elif state not in (None, "active", "idle"):
        text += f": {state}"
    if len(models := status.get("models", ())) == 1 and status.get("recipe") and models[0]["bundle"] != installed:
        text += f"; recipe {status['recipe']} runs {models[0]['bundle']}"
    yield "bundle", text
    for problem in pushed_problems(status):
        state = "is refused" if problem.is_refused else "does not run yet"
        yield "", f"the {problem.kind} that was pushed last {state}: {problem.text}"
    if status.get("used_device"):
        standby = f"; {status['standby_device']} is on standby" if status.get("standby_device") else ""
        fallbacks = f"; {counted(n, 'call')} went to another device" if (n := status.get("fallbacks")) else ""
        yield "runs on", f"{status['used_device']} (requested {status['requested_device']}){standby}{fallbacks}"
        if status.get("placement_plan"):
            yield "measured best", status["placement_plan"]
        several = models if len(models := status.get("models", ())) > 1 else ()
        for place, model in enumerate(several):
            share = f", {model['compute_share']:.0%} of the time" if model["compute_share"] is not None else ""
            where = f"{model['used_device']} (requested {model['requested_device']})"
            yield "" if place else "models", f"{model['name']}: {model['bundle']} on {where}{share}"
        if asked := status.get("cache_hits", 0) + status.get("cache_misses", 0):
            yield "result cache", f"{status['cache_hits']} of {asked} frames answered"


def _parts(status: Status) -> Lines:
    line = status.get("line") or {}
    if line.get("triggers"):
        malformed = f", {line['malformed']} of them malformed" if line.get("malformed") else ""
        faults = [f"{line[name]} {name}" for name in ("late", "refused") if line.get(name)]
        faults[-1:] = [faults[-1] + malformed] if faults else []
        why = f" ({', '.join(faults)})" if faults else ""
        unsure = f" ({line['unsure']} unsure)" if line.get("unsure") else ""
        counts = f"{line['passed']} passed, {line['rejected']} rejected{unsure}, {_faults(line)}{why}"
        yield "parts", f"{line['triggers']} since the start: {counts}"
    elif status.get("inspected"):
        unsure = f" ({status['unsure']} unsure)" if status.get("unsure") else ""
        counts = f"{status['passed']} passed, {status['rejected']} rejected{unsure}, {_faults(status)}"
        yield "parts", f"{status['inspected']} since the start: {counts}"
    defects = (status.get("results") or {}).get("defects")
    if defects:
        by_count = sorted(defects.items(), key=lambda one: -one[1])
        yield "defects", ", ".join(f"{kind} {count}" for kind, count in by_count)
    marks = (status.get("results") or {}).get("marks", {})
    for place, (rule, counts) in enumerate(marks.items()):
        total = sum(counts.values())
        rate = f"{rule}: {1 - counts['unread'] / total:.1%} of {total} read"
        yield "" if place else "marks", f"{rate}, {counts['refused']} refused" if counts["refused"] else rate
    if status.get("latency_ms"):
        yield "time", f"{status['latency_ms']:.1f} ms from the last frame to its verdict"


def _faults(counts: Mapping[str, Any]) -> str:
    return counted(counts["faults"], "fault")


def _ports(status: Status) -> Lines:
    for place, camera in enumerate(status.get("cameras", ())):
        outages = f", {counted(camera['outages'], 'outage')}" if camera.get("outages") else ""
        spoiled = f", {camera['spoiled']} damaged first frames skipped" if camera.get("spoiled") else ""
        lost = f"; {camera['problem']}" if camera.get("problem") else ""
        frames = counted(camera["frames"], "frame")
        yield "" if place else "cameras", f"{camera['source']}: {frames}{outages}{spoiled}{lost}"
    for place, port in enumerate(status.get("line_io", ())):
        is_open = "open" if port.get("open") else "not open"
        text = f"{port['name']}: {is_open}, {counted(port.get('sent', 0), 'verdict')} sent"
        text += f", {port['missed']} missed" if port.get("missed") else ""
        if "polled_s_ago" in port and port["polled_s_ago"] is None:
            text += ", no PLC has polled yet"
        elif "polled_s_ago" in port:
            text += f", PLC last polled {port['polled_s_ago'] + status['age_s']:.1f} s ago"
        yield "" if place else "lines", text


def _hub(status: Status) -> Lines:
    pending = f", {counted(status['outbox_pending'], 'result')} to send" if status.get("outbox_pending") else ""
    if status.get("link_problem"):
        where = "not heard, though the broker is connected" if status.get("connected") else "not connected"
        yield "hub", f"{where}{pending}"
    elif status.get("connected"):
        yield "hub", f"connected{pending}"
    if status.get("agent_waiting") or status.get("agent_on_trial"):
        yield "update", str(status.get("agent_waiting") or "this version of the agent is on trial")


def _disk(status: Status) -> Lines:
    parts = []
    if status.get("records_bytes") is not None:
        parts.append(f"{status['records_bytes'] / 1e6:.1f} MB of records")
    if status.get("images_bytes") is not None:
        parts.append(f"{status['images_bytes'] / 1e6:.1f} MB of images")
    if status.get("written_bytes_a_day") is not None:
        parts.append(f"{status['written_bytes_a_day'] / 1e9:.2f} GB written a day")
    if status.get("lost"):
        parts.append(f"{status['lost']} records lost")
    if parts:
        yield "disk", ", ".join(parts)


def _watches(status: Status) -> Lines:
    drift, degradation = status.get("drift"), status.get("degradation")
    if drift is not None:
        yield "drift", "; ".join(drift.get("alarms", ())) or f"{drift.get('state')}, no alarm"
    if degradation is not None:
        steps = degradation.get("steps")
        yield "degraded", f"{', '.join(steps)}: {degradation.get('reason')}" if steps else "no"


def _flattened(value: Any, name: str = "") -> Lines:
    """Yields a line for each value, nested ones under ``outer.inner``."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flattened(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for number, inner in enumerate(value):
            yield from _flattened(inner, f"{name}.{number}")
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value)) or "-"
    elif isinstance(value, bool):
        yield name, "yes" if value else "no"
    else:
        yield name, "-" if value is None or value == {} else str(value)
