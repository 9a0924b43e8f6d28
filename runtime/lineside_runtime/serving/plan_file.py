"""The file that keeps a plan: one a bundle and configuration, in the user's state folder."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import msgspec

from lineside_runtime import registry
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import ConfigError, DeviceError
from lineside_runtime.files import ensure_writable, write_atomic
from lineside_runtime.logs import log
from lineside_runtime.serving.candidates import engine_of
from lineside_runtime.serving.serving_plan import PlacementPlan, plans_folder


def plan_file(bundle: Bundle, config: Config) -> Path:
    """Returns where the plan of a bundle under a configuration is kept, in `plans_folder`.

    Raises:
        ConfigError: The user has no home folder, and ``XDG_STATE_HOME`` is not set.
    """
    return plans_folder() / f"{plan_key(bundle, config)[:32]}.json"


def plan_key(bundle: Bundle, config: Config) -> str:
    """Returns a hash of the bundle, and of those keys of a configuration that decide which ways there are."""
    placed = msgspec.structs.replace(
        config, cache=None, submit_queue=1, submit_workers=1, standby=False, isolated_timeout_s=None
    )
    return hashlib.sha256(bundle.digest.encode() + msgspec.json.encode(placed)).hexdigest()


def save_plan(plan: PlacementPlan, path: Path) -> None:
    """Writes a plan.

    Raises:
        ConfigError: The file can't be written.
        DiskFullError: There is no room.
    """
    ensure_writable(path)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(plan)))


def forget_plan(path: Path) -> bool:
    """Deletes a plan; false if there was none."""
    known = path.is_file()
    path.unlink(missing_ok=True)
    return known


def read_plan(path: Path, bundle: Bundle, config: Config) -> PlacementPlan | None:
    """Returns the plan of a bundle; ``None`` if there is none, or it was made for something else."""
    try:
        plan = decode_json(path.read_bytes(), type=PlacementPlan)
    except OSError:
        return None
    except (msgspec.DecodeError, ConfigError) as error:
        log.warning("%s is not used: %s", path, error)
        return None
    changed = _changed(plan, bundle, config)
    if changed:
        log.warning("%s: its plan is not used: %s; run `lineside plan` again", bundle.manifest.identity, changed)
        return None
    return plan


def machine_name() -> str:
    """Returns the processor and how many of its cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))), "")
    return f"{model or platform.machine()}, {core_count()} cores"


def core_count() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _changed(plan: PlacementPlan, bundle: Bundle, config: Config) -> str:
    """Returns what has changed since the plan was made; empty if nothing has."""
    if plan.digest != bundle.digest:
        return "it is another bundle's"
    here = machine_name()
    if plan.machine != here:
        return f"it was measured on {plan.machine}, this is {here}"
    allowed = config.engines or registry.names()
    for engine, version in plan.versions.items():
        if engine not in allowed:
            return f"{engine} is none of {', '.join(allowed)}"
        try:
            found = engine_of(engine, config).version
        except (DeviceError, ConfigError) as error:
            return str(error)
        if found != version:
            return f"it was measured with {engine} {version}, here is {found}"
    return ""
