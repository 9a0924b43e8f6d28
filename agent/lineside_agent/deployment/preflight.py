"""Check whether this agent could take over on this device, without changing anything.

A new agent does so in its own slot, with its own Python, while the old one runs the line: it reads the configuration,
the hub's over it, the state files and the records, and runs the installed bundle on its golden input.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sqlite3
from pathlib import Path

import msgspec

from lineside_agent.config import AgentConfig, read_config
from lineside_agent.deployment.artifacts.agent import STATE_NAME as AGENT_STATE_NAME
from lineside_agent.deployment.artifacts.bundle import STATE_NAME
from lineside_agent.deployment.artifacts.configuration import read_followed
from lineside_agent.deployment.machine import AgentMachine, BundleMachine
from lineside_agent.deployment.slots import Slots
from lineside_agent.inspection.loaded_bundle import load
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.storage.records import NAME as DATABASE_NAME
from lineside_agent.storage.state_file import peek_state
from lineside_runtime.errors import DatabaseError


class PreflightResult(msgspec.Struct, frozen=True, kw_only=True):
    """What works.

    Attributes:
        bundle: The installed one; empty for none.
        used_device: Processor that ran its golden input; empty if it has none.
    """

    agent_version: str
    device: str
    bundle: str = ""
    used_device: str = ""


def check(config_path: Path) -> PreflightResult:
    """Checks everything that this agent needs here; raises `LinesideError` for what it can't work with."""
    config = read_followed(read_config(config_path))
    machine = peek_state(config.folder / STATE_NAME, BundleMachine) or BundleMachine()
    peek_state(config.folder / AGENT_STATE_NAME, AgentMachine)
    _check_records(config.folder / DATABASE_NAME)
    bundle, used_device = _run_bundle(config, machine)
    version = importlib.metadata.version("lineside")
    return PreflightResult(agent_version=version, device=config.device, bundle=bundle, used_device=used_device)


def _check_records(path: Path) -> None:
    if not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10.0)) as found:
            found.execute("SELECT seq, source, sequence, verdict, captured_at_ns, body FROM records LIMIT 1").fetchall()
            found.execute("SELECT key, value FROM meta").fetchall()
    except sqlite3.DatabaseError as error:
        raise DatabaseError(f"{path}: {error}", action="This agent can't write its records there.") from error


def _run_bundle(config: AgentConfig, machine: BundleMachine) -> tuple[str, str]:
    slot = machine.installed_slot or ("factory" if config.bundle is not None else None)
    if slot is None:
        return "", ""
    bundle = Slots(config.folder, config.bundle).open(slot)
    recipes = Recipes(config.folder, config.recipe)
    inspect = config.inspect if recipes.bundle is not None else recipes.apply_to(config.inspect)
    loaded = load(slot, bundle, inspect, measured=config.folder if slot == "factory" else None)
    try:
        used = loaded.replay() if loaded.has_golden else ""
    finally:
        loaded.close()
    return bundle.manifest.identity, used
