"""Find out what is wrong with the agent on this device, and what to do about it.

`collect` makes an `Examination`: it reads files and tries the broker's port, and changes nothing. `examine` is pure and
makes the findings of it. Problems of the board itself (heat, throttling, disk, clock) come from
`lineside_boards.doctor` and are in the same list.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from lineside_agent.config import (
    AgentConfig,
    GpioLineConfig,
    read_config,
)
from lineside_agent.deployment.self_update.guard import FOLDER, AgentTrial, Installation
from lineside_agent.deployment.slots import missing_bundle
from lineside_agent.health.pushed_artifacts import pushed_problems
from lineside_agent.service.install import installed_files
from lineside_boards import inventory, profile
from lineside_boards.doctor import BoardFinding
from lineside_boards.doctor import examine as examine_board
from lineside_models.identification.expected_values import ExpectedValues
from lineside_runtime.bundle import MANIFEST_NAME
from lineside_runtime.errors import InputNotFoundError, LinesideError

STALE_S = 10.0
"""``status.json`` is written twice a second."""

FREE_BYTES_LEAST = 512 << 20
"""Two agents in their slots and the records of a week; below it the next update may not find room."""

CERTIFICATE_DAYS = 30
DAY_S = 86_400
OUTBOX_MANY = 10_000
CONNECT_TIMEOUT_S = 3.0

POLL_PAUSE_S = 10.0
"""A PLC polls several times a second; one that has not for so long is gone."""


MARKS_LEAST = 50
UNREAD_SHARE = 0.05
"""Share of unread marks, of so many or more, from which on light, focus or the rule is to blame."""


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """The observed state.

    Attributes:
        config: The configuration; ``None`` if it cannot be read.
        config_problem: Why not.
        status: Content of ``status.json``; empty if there is none.
        runs: Whether a process holds the state folder.
        missing_bundle: Message if the configured bundle is not there; empty otherwise.
        missing_recipes: The same of the recipes' bundles.
        missing_pictures: Folders and files of cameras that are not there.
        expected_values_problem: Why what marks must agree with cannot be read; empty if it can, or none is configured.
        free_bytes: Of the disk that holds the state folder.
        broker_problem: Why the broker's port does not answer; empty if it does, or without a link.
        certificate_days: Until this device's certificate expires; ``None`` without one.
        certificate_problem: Why that is not known; empty if it is.
        clock_behind_s: How far the clock is behind a time that was seen before.
        trial: Of a new agent; ``None`` without a trial.
        whole: Slots that can be started.
        changed_files: Files of the service that are missing or of another release; ``None`` if it is not installed.
        board: Findings of the board's own doctor.
    """

    config: AgentConfig | None = None
    config_problem: str = ""
    status: dict[str, Any] = {}
    status_age_s: float = 0.0
    runs: bool = False
    missing_bundle: str = ""
    missing_recipes: tuple[str, ...] = ()
    missing_pictures: tuple[Path, ...] = ()
    expected_values_problem: str = ""
    free_bytes: int | None = None
    broker_problem: str = ""
    certificate_days: float | None = None
    certificate_problem: str = ""
    clock_behind_s: float = 0.0
    trial: AgentTrial | None = None
    whole: frozenset[str] = frozenset()
    changed_files: tuple[str, ...] | None = None
    board: tuple[BoardFinding, ...] = ()


def examine(observed: Examination) -> tuple[BoardFinding, ...]:
    """Returns what is wrong, the worst first."""
    findings = [
        *_running(observed),
        *_cameras(observed),
        *_marks(observed),
        *_line(observed),
        *_store(observed),
        *_link(observed),
        *_device(observed),
        *_updates(observed),
        *observed.board,
    ]
    return tuple(sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.level)))


def _error(what: str, action: str) -> BoardFinding:
    return BoardFinding(level="error", what=what, action=action)


def _warning(what: str, action: str) -> BoardFinding:
    return BoardFinding(level="warning", what=what, action=action)


def _running(observed: Examination) -> Iterator[BoardFinding]:
    if observed.config is None:
        yield _error(
            observed.config_problem, "Correct the configuration; `lineside config schema agent` prints what is allowed."
        )
        return
    start, journal = "systemctl start lineside-agent", "journalctl --namespace=lineside -u lineside-agent"
    if observed.changed_files is None:  # no service
        start, journal = "lineside agent run --config FILE", "what it wrote on stderr"
    if not observed.status:
        yield _error("the agent has never run with this configuration", f"Start it: {start}")
    elif observed.status_age_s > STALE_S and observed.runs:
        room = "" if observed.free_bytes is None else f", and {observed.free_bytes / 2**20:.1f} MiB are free for it"
        what = f"the agent runs, but its status is {observed.status_age_s:.0f} s old{room}"
        yield _error(what, f"Make room under the state folder; the findings below may be old. See also: {journal}")
    elif observed.status_age_s > STALE_S:
        what = f"the agent doesn't run: its last status is {observed.status_age_s:.0f} s old"
        yield _error(what, f"Start it: {start}; why it ended: {journal}")
    elif not observed.status.get("ready", True):
        yield _warning("the agent runs and has not inspected anything yet", f"Wait a minute, then look: {journal}")


def _line(observed: Examination) -> Iterator[BoardFinding]:
    status = observed.status
    for line in observed.config.line_io if observed.config is not None else ():
        if isinstance(line, GpioLineConfig) and "gate" in line.outputs:
            what = f"{line.chip}: the gate is energised to reject: without power, wire or agent it lets every part pass"
            yield _warning(what, "Use the output `gate_pass` and a gate that rejects without a signal.")
    line_status = status.get("line") or {}
    known = [str(value) for key, value in status.items() if key.endswith("_problem") and value]
    if (problem := line_status.get("problem")) and not any(each in problem for each in known):
        yield _warning(f"the line is not ready: {problem}", "It is ready again as soon as that is over.")
    if fault := line_status.get("fault"):
        action = "See the journal for the reason; then the operator's reset: lineside agent trigger --reset."
        yield _error(f"the line is at fault {fault}: every part is rejected until the reset", action)
    for line in status.get("line_io", ()):
        yield from _line_of(line)
    if status.get("recipe_problem"):
        yield _error(f"recipe: {status['recipe_problem']}", "`lineside agent recipe` lists those that there are.")
    for problem in observed.missing_recipes:
        yield _error(problem, "Correct `bundle` of the recipe in the configuration.")
    degradation = status.get("degradation") or {}
    if degradation.get("steps"):
        steps = ", ".join(degradation["steps"])
        what = f"the agent runs with reduced service ({steps}): {degradation.get('reason')}"
        yield _warning(what, "Give the housing air, or the line a faster box; it is taken back by itself.")
    if problem := observed.missing_bundle or status.get("bundle_problem"):
        yield _error(problem, "Correct `bundle` in the configuration.")
    elif status.get("installed") is None and status:
        yield _error("there is no bundle to run", "Push one from the hub, or name one in agent.toml under `bundle`.")
    if faults := status.get("faults", 0):
        share = faults / max(1, status.get("inspected", 0))
        if share > 0.01:
            yield _warning(f"{share:.0%} of the frames had no verdict", "The journal names each with its reason.")
    for alarm in (status.get("drift") or {}).get("alarms", ()):
        action = "Look at lens, lamp and parts; then `lineside agent drift --clear`, or --relearn if it was meant."
        yield _warning(f"the line has changed: {alarm}", action)
    restarts = status.get("engine_restarts", 0)
    if restarts:
        yield _warning(f"the engine's process ended {restarts} times and was started again", "See the journal.")
    if status.get("device_problem"):
        what = f"the model runs on {status.get('used_device')}: {status['device_problem']}"
        yield _warning(what, "`lineside devices` shows the problem of the other; it is used again as soon as it works.")
    elif status.get("device_failures", 0) > restarts:
        what = f"devices failed {status['device_failures']} times; {status.get('used_device')} runs the model now"
        yield _warning(what, "`lineside devices` shows the problem of the other.")


def _line_of(line: dict[str, Any]) -> Iterator[BoardFinding]:
    """Findings for one of the lines."""
    polled_s_ago = line.get("polled_s_ago")
    if line.get("problem"):
        action = "Check address, port and cable; another program may use the port. It is tried again by itself."
        yield _error(f"{line['name']}: {line['problem']}", action)
    elif line.get("open") and "polled_s_ago" in line and polled_s_ago is None:
        what = f"{line['name']}: no PLC has polled since the agent's start"
        yield _warning(what, "Check the PLC's program, the address that it polls, and the network.")
    elif polled_s_ago is not None and polled_s_ago > POLL_PAUSE_S:
        action = "Check the PLC, its program and the network; the agent answers as soon as it polls again."
        yield _error(f"{line['name']}: PLC last polled {polled_s_ago:.0f} s ago", action)
    if line.get("missed"):
        what = f"{line['name']} missed {line['missed']} verdicts"
        yield _error(what, "Check the cable and the other end; a verdict that isn't heard must count as reject.")


def _cameras(observed: Examination) -> Iterator[BoardFinding]:
    for path in observed.missing_pictures:
        yield _error(
            f"the camera's pictures {path} are not there", "Correct `path` of the camera in the configuration."
        )
    problem = observed.status.get("camera_problem")
    if problem and not any(str(path) in problem for path in observed.missing_pictures):
        yield _error(problem, "Look at the camera, its cable and power; it is opened again by itself.")


def _marks(observed: Examination) -> Iterator[BoardFinding]:
    if observed.expected_values_problem:
        yield _error(
            observed.expected_values_problem, "Parts whose marks need them are faults until the file is right."
        )
    for rule, counts in (observed.status.get("results") or {}).get("marks", {}).items():
        total = sum(counts.values())
        if total >= MARKS_LEAST and counts["unread"] > UNREAD_SHARE * total:
            what = f"{rule}: {counts['unread']} of {total} marks were not read"
            yield _warning(
                what, "Look at frames with `lineside inspect --rules FILE --draw DIR`: region, light, focus."
            )


def _store(observed: Examination) -> Iterator[BoardFinding]:
    status = observed.status
    if status.get("store_problem"):
        yield _error(status["store_problem"], "Make room; records wait in memory, a thousand of them.")
    if status.get("numbers_problem"):
        what = f"part numbers can't be reserved, no part is inspected: {status['numbers_problem']}"
        yield _error(what, "Make room under the state folder.")
    if lost := status.get("lost", 0):
        yield _error(f"{lost} records are lost", "The disk was full or too slow for too long; make room.")
    if aside := status.get("databases_set_aside", 0):
        yield _warning(f"{aside} damaged databases were set aside", "Check the disk; they lie in the state folder.")


def _link(observed: Examination) -> Iterator[BoardFinding]:
    if observed.config is None or observed.config.link is None:
        return
    url = observed.config.link.url
    if observed.broker_problem:
        yield _warning(f"{url} can't be reached: {observed.broker_problem}", "Check network, address and firewall.")
    elif observed.status and not observed.status.get("connected"):
        reason = observed.status.get("link_problem") or "it doesn't say why"
        yield _warning(f"{url} answers, and the agent is not connected: {reason}", "Check certificates and the broker.")
    elif observed.status.get("link_problem") and not observed.status.get("name_conflicts"):
        yield _error(observed.status["link_problem"], "See that the hub runs; check the access list: lineside hub acl.")
    if observed.status.get("outbox_pending", 0) > OUTBOX_MANY:
        what = f"{observed.status['outbox_pending']} records wait for the hub"
        yield _warning(what, "They are kept and sent when it answers; see that the hub runs.")
    if observed.status.get("name_conflicts"):
        what = f"another agent is connected as {observed.config.device}"
        yield _error(what, "Give each device its own name and certificate: lineside hub enroll.")
    if observed.certificate_problem:
        yield _error(observed.certificate_problem, "Put the files of `lineside hub enroll` on the device.")
    days, reason = observed.certificate_days, observed.status.get("certificate_problem")
    if days is not None and days < CERTIFICATE_DAYS:
        what = "this device's certificate has expired" if days < 0 else f"the certificate expires in {days:.0f} days"
        kind = _error if days < 0 else _warning
        action = "Renew it: lineside hub enroll, put the files on the device, and restart the agent."
        yield kind(f"{what}: {reason}" if reason else what, action)
    elif reason:
        yield _warning(f"the certificate is not renewed: {reason}", "Look at the hub: lineside hub status.")


def _device(observed: Examination) -> Iterator[BoardFinding]:
    if observed.clock_behind_s > 60:
        what = f"the clock is {datetime.timedelta(seconds=int(observed.clock_behind_s))} behind a time seen before"
        yield _warning(what, "Give the device a time server; until then the time seen before counts for signatures.")
    if observed.free_bytes is not None and observed.free_bytes < FREE_BYTES_LEAST:
        what = f"{observed.free_bytes / 2**20:.0f} MiB are free for records and updates"
        yield _warning(what, "Remove old images under the state folder, or use a larger disk.")


def _updates(observed: Examination) -> Iterator[BoardFinding]:
    for problem in pushed_problems(observed.status):
        what = f"the {problem.kind} that was pushed last"
        if problem.is_refused:
            action = "The one before it goes on; correct it and push it again."
            yield _warning(f"{what} is refused: {problem.text}", action)
        else:
            yield _warning(f"{what} does not run yet: {problem.text}", "It is tried again by itself.")
    if observed.trial is not None:
        what = f"a new agent is on trial in slot {observed.trial.slot} (spent {observed.trial.spent} of 6)"
        action = "Leave it alone: it stays when it is healthy and has met the hub, or the one before it comes back."
        yield BoardFinding(level="note", what=what, action=action)
    if observed.changed_files is None:
        action = "Without a service it is not started again: lineside agent install-service --payload DIR."
        yield BoardFinding(level="note", what="the agent is not installed as a service", action=action)
        return
    if observed.changed_files:
        what = f"files of the service are missing or changed: {', '.join(observed.changed_files)}"
        yield _warning(what, "If that wasn't on purpose: lineside agent install-service.")
    if not observed.whole:
        yield _error("no slot holds a whole agent", "lineside agent install-service --payload DIR")


def collect(config_path: Path, root: Path | str = "/") -> Examination:
    """Collects the state of the agent and of the board, whose system is at ``root``; changes nothing."""
    base = Path(root)
    try:
        changed: tuple[str, ...] | None = tuple(installed_files(base))
    except InputNotFoundError:
        changed = None
    home = Installation(base / FOLDER.lstrip("/"))
    system = Examination(changed_files=changed, trial=home.trial(), whole=home.whole())
    try:
        config = read_config(config_path)
    except LinesideError as error:
        return msgspec.structs.replace(system, config_problem=str(error), board=_board(base, expects_camera=False))
    status, age_s = _status(config.folder / "status.json")
    days, certificate_problem = _certificate(config)
    return msgspec.structs.replace(
        system,
        config=config,
        status=status,
        status_age_s=age_s,
        runs=is_held(config.folder),
        missing_bundle=missing_bundle(config.bundle),
        missing_recipes=tuple(
            f"recipe {one.name}: {problem}" for one in config.recipe if (problem := missing_bundle(one.bundle))
        ),
        missing_pictures=tuple(path for camera in config.cameras if (path := camera.missing_path()) is not None),
        expected_values_problem=_expected_values_problem(config),
        board=_board(base, expects_camera=any(camera.is_board_camera for camera in config.cameras)),
        free_bytes=shutil.disk_usage(config.folder).free if config.folder.is_dir() else None,
        broker_problem=_try_broker(config),
        certificate_days=days,
        certificate_problem=certificate_problem,
        clock_behind_s=_clock_behind_s(config.folder),
    )


def _expected_values_problem(config: AgentConfig) -> str:
    if not config.inspect.expected_values:
        return ""
    try:
        ExpectedValues(config.inspect.expected_values).check()
    except LinesideError as error:
        return str(error)
    return ""


def is_held(folder: Path) -> bool:
    """Returns whether a process holds an agent's state folder; takes no lock, which would keep an agent out."""
    try:
        inode = (folder / "lock").stat().st_ino
        locks = Path("/proc/locks").read_text()
    except OSError:
        return False
    # Without the device: on an overlay the kernel names the one below.
    return any(re.search(rf" FLOCK .*:{inode} ", line) for line in locks.splitlines())


def _board(base: Path, *, expects_camera: bool) -> tuple[BoardFinding, ...]:
    """The board's own findings; its engines are not probed, since one of them is busy with the line."""
    found = inventory.take(base)
    known = profile.load(found.board) if found.profiles else None
    return examine_board(found, known, expects_camera=expects_camera)


def _status(path: Path) -> tuple[dict[str, Any], float]:
    try:
        status = json.loads(path.read_bytes())
        return (status if isinstance(status, dict) else {}), time.time() - path.stat().st_mtime
    except (OSError, ValueError):
        return {}, 0.0


def _try_broker(config: AgentConfig) -> str:
    if config.link is None:
        return ""
    try:
        socket.create_connection((config.link.host, config.link.port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return str(error)
    return ""


def _certificate(config: AgentConfig) -> tuple[float | None, str]:
    if config.link is None or config.link.certificate is None:
        return None, ""
    from lineside_agent.hub_client.identity import link_in_use
    from lineside_link.certificates import read_certificate

    try:
        found = read_certificate(Path(str(link_in_use(config.folder, config.link).certificate)).read_bytes())
    except (OSError, LinesideError) as error:
        return None, f"the certificate can't be read: {error}"
    left = found.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    return left.total_seconds() / 86400, ""


def _clock_behind_s(folder: Path) -> float:
    """Returns how far the clock is behind the floor of an agent's state folder, or a day and more behind its bundle.

    A new device whose clock was never set has no floor yet that would show it.
    """
    floor_s = _behind_s(lambda: (folder / "clock").read_text(encoding="ascii"))
    bundle_s = _behind_s(lambda: json.loads((folder / "current" / MANIFEST_NAME).read_bytes())["created_at"])
    return max(floor_s, bundle_s if bundle_s > DAY_S else 0.0)  # clocks of hosts differ


def _behind_s(read: Callable[[], str]) -> float:
    try:
        then = datetime.datetime.fromisoformat(read().strip().replace("Z", "+00:00"))  # Python 3.10 knows no Z
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return 0.0
    return max(0.0, (then - datetime.datetime.now(datetime.timezone.utc)).total_seconds()) if then.tzinfo else 0.0
