"""Check whether this agent could take over on this device, without changing anything.

A new agent does so in its own slot, with its own Python, while the old one runs the line: it reads the configuration,
the hub's over it, the state files and the records, runs the installed bundle on its golden input, and compares each
recipe with its bundle.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lineside_agent.config import AgentConfig, inspect_of, read_config
from lineside_agent.deployment.artifacts.agent import STATE_NAME as AGENT_STATE_NAME
from lineside_agent.deployment.artifacts.agent import WITH_PROBLEMS
from lineside_agent.deployment.artifacts.bundle import STATE_NAME
from lineside_agent.deployment.artifacts.configuration import read_followed
from lineside_agent.deployment.bundle_check import check_names
from lineside_agent.deployment.machine import AgentMachine, BundleMachine
from lineside_agent.deployment.slots import Slots, missing_bundle
from lineside_agent.inspection.loaded_bundle import load
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.storage.records import NAME as DATABASE_NAME
from lineside_agent.storage.state_file import peek_state
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import DatabaseError, LinesideError

__all__ = ["WITH_PROBLEMS", "PreflightResult", "check"]


class PreflightResult(msgspec.Struct, frozen=True, kw_only=True):
    """What works.

    Attributes:
        bundle: The installed one; empty for none.
        used_device: Processor that ran its golden input; empty if it has none.
        problems: Why recipes can't run, a line each. They are no reason against an agent: no other one runs them.
    """

    agent_version: str
    device: str
    bundle: str = ""
    used_device: str = ""
    problems: tuple[str, ...] = ()


def check(config_path: Path) -> PreflightResult:
    """Checks everything that this agent needs here; raises `LinesideError` for what it can't work with."""
    config = read_followed(read_config(config_path))
    machine = peek_state(config.folder / STATE_NAME, BundleMachine) or BundleMachine()
    peek_state(config.folder / AGENT_STATE_NAME, AgentMachine)
    _check_records(config.folder / DATABASE_NAME)
    bundle, used_device = _run_bundle(config, machine)
    return PreflightResult(
        agent_version=importlib.metadata.version("lineside"),
        device=config.device,
        bundle="" if bundle is None else bundle.manifest.identity,
        used_device=used_device,
        problems=tuple(_recipe_problems(config, bundle)),
    )


def _check_records(path: Path) -> None:
    if not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10.0)) as found:
            found.execute("SELECT seq, source, sequence, verdict, captured_at_ns, body FROM records LIMIT 1").fetchall()
            found.execute("SELECT key, value FROM meta").fetchall()
    except sqlite3.DatabaseError as error:
        raise DatabaseError(f"{path}: {error}", action="This agent can't write its records there.") from error


def _run_bundle(config: AgentConfig, machine: BundleMachine) -> tuple[Bundle | None, str]:
    slot = machine.installed_slot or ("factory" if config.bundle is not None else None)
    if slot is None:
        return None, ""
    bundle = Slots(config.folder, config.bundle).open(slot)
    recipes = Recipes(config.folder, config.recipe)
    recipe = recipes.current if recipes.bundle is None else None
    inspect = config.inspect if recipe is None else inspect_of(config.inspect, recipe)
    loaded = load(slot, bundle, inspect, recipe=recipe, measured=config.folder if slot == "factory" else None)
    try:
        used = loaded.replay() if loaded.has_golden else ""
    finally:
        loaded.close()
    return bundle, used


def _recipe_problems(config: AgentConfig, installed: Bundle | None) -> Iterator[str]:
    for recipe in config.recipe:
        if missing := missing_bundle(recipe.bundle):
            yield f"recipe {recipe.name}: {missing}"
            continue
        try:
            bundle = installed if recipe.bundle is None else open_bundle(recipe.bundle)
            if bundle is not None:
                check_names(inspect_of(config.inspect, recipe), bundle.manifest, recipe=recipe, whole=True)
        except LinesideError as error:
            yield f"recipe {recipe.name}: {error.reason}"
