"""A configuration as an artifact: fetched, checked, applied between two frames, undone if it fails.

::

    <folder>/configuration/
    ├── state.json          where its deployment stands
    └── <sha256>.toml       its content, as it was signed

``agent.toml`` is never written. A configuration that can't be used any more (by an older agent) leaves it standing
alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from lineside_agent.config import AgentConfig, StoreConfig, with_settings
from lineside_agent.deployment.artifacts.bundle import BundleArtifact
from lineside_agent.deployment.events import Started
from lineside_agent.deployment.machine import ConfigurationMachine
from lineside_agent.deployment.runner import Artifact, ShouldStop
from lineside_agent.inspection.loaded_bundle import LoadedBundle
from lineside_agent.storage.state_file import read_state
from lineside_link.messages import ConfigRef, ConfigReport
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import ConfigError, StagingError
from lineside_runtime.files import write_atomic

log = logging.getLogger("lineside.configuration")

FetchConfiguration = Callable[[ConfigRef, ShouldStop], bytes]
"""Fetches a signed configuration: `fetch.Fetcher.fetch_configuration`."""


def read_followed(local: AgentConfig) -> AgentConfig:
    """Returns what would hold at the start of an agent, without touching anything.

    Raises:
        ConfigError: The hub's configuration that is followed here can't be read, or not by this agent, or is damaged.
    """
    folder = _folder(local)
    try:
        machine = decode_json((folder / "state.json").read_bytes(), type=ConfigurationMachine)
        if machine.installed is None:
            return local
        return with_settings(local, _read_content(local, machine.installed.sha256))
    except FileNotFoundError as error:
        if error.filename == str(folder / "state.json"):
            return local
        raise ConfigError(f"the hub's configuration is gone: {error}") from error
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"the hub's configuration can't be read: {error}") from error


class FollowedConfiguration:
    """What holds on this device: ``agent.toml`` with the hub's configuration over it.

    Attributes:
        effective: What holds now.
        machine: Where its deployment stands, as it is reported.
    """

    def __init__(self, local: AgentConfig) -> None:
        self.local = self.effective = local
        self.machine = _read(local)
        installed = self.machine.installed
        if installed is None:
            return
        try:
            self.effective = self.settings(installed.sha256)
        except (ConfigError, OSError) as error:
            log.error("the hub's configuration can't be followed, agent.toml stands alone: %s", error)
            self.machine = msgspec.structs.replace(self.machine, installed=None, installed_slot=None)

    def path(self, slot: str) -> Path:
        """Returns the file of a configuration."""
        return _path(self.local, slot)

    def content(self, slot: str) -> bytes:
        """Returns the TOML of a configuration.

        Raises:
            ConfigError: It is not what was signed.
        """
        return _read_content(self.local, slot)

    def settings(self, slot: str) -> AgentConfig:
        """Returns ``agent.toml`` with a configuration over it; raises `ConfigError` for a bad or a damaged one."""
        return with_settings(self.local, self.content(slot))

    def report(self) -> ConfigReport:
        """Returns the report for the hub."""
        machine = self.machine
        return ConfigReport(
            epoch=machine.epoch,
            gen=machine.gen,
            installed=machine.installed,
            wanted=machine.wanted,
            error=machine.error,
        )


class ConfigurationArtifact(Artifact[ConfigurationMachine]):
    """The configuration that is followed.

    Args:
        bundles: What runs; loaded anew where a configuration changes how it inspects.
        apply_store: Takes the ``[store]`` table of another configuration.
        gate: As `HubClient.reason_to_wait`.
    """

    log = log

    def __init__(
        self,
        configuration: FollowedConfiguration,
        bundles: BundleArtifact,
        *,
        fetch: FetchConfiguration,
        report: Callable[[ConfigReport], None],
        apply_store: Callable[[StoreConfig], None] = lambda _: None,
        gate: Callable[[ConfigurationMachine, bool], str] = lambda *_: "",
    ) -> None:
        self.path = _folder(configuration.local) / "state.json"
        self._configuration = configuration
        self._bundles = bundles
        self._fetch = fetch
        self._report = report
        self._apply_store = apply_store
        self._gate = gate
        self._config: AgentConfig | None = None
        self._staged: LoadedBundle | None = None
        self._kept: LoadedBundle | None = None

    def read(self) -> ConfigurationMachine:
        return self._configuration.machine

    def started(self, machine: ConfigurationMachine) -> Started:
        return Started(machine.installed, machine.installed_slot)

    def report(self, machine: ConfigurationMachine) -> None:
        self._configuration.machine = machine
        self._report(self._configuration.report())

    def fetch(self, machine: ConfigurationMachine, should_stop: ShouldStop) -> None:
        if machine.wanted is not None and machine.slot is not None:
            write_atomic(self._configuration.path(machine.slot), self._fetch(machine.wanted, should_stop))

    def verify(self, machine: ConfigurationMachine) -> None:
        """Reads it as it lies on the disk, and checks its sha256 again."""
        self._configuration.settings(str(machine.slot))

    def stage(self, machine: ConfigurationMachine) -> None:
        """Loads what runs anew beside itself, where the configuration changes how it inspects."""
        self._free()
        config = self._configuration.settings(str(machine.slot))
        running, inspect = self._bundles.active.loaded, self._bundles.recipes.apply_to(config.inspect)
        if running is not None and inspect != self._bundles.inspect:
            self._staged = self._bundles.load(running.slot, running.bundle, inspect)
            self._staged.replay()
        self._config = config

    def switch(self, machine: ConfigurationMachine) -> None:
        if self._config is None:
            raise StagingError(f"configuration {machine.slot} is not staged")
        if self._staged is not None:
            self._kept = self._bundles.active.swap(self._staged)

    def check_health(self, machine: ConfigurationMachine) -> bool:
        """Watches the first real frames under it; then it holds."""
        config = self._config
        if config is None:
            raise StagingError(f"configuration {machine.slot} is not staged")
        if self._staged is not None and not self._bundles.watch(self._bundles.recipes.apply_to(config.inspect)):
            return False
        self._apply_store(config.store)
        self._configuration.effective = config
        return True

    def restore(self, slot: str | None) -> None:
        """Lets run again what ran before the switch; what holds was not touched."""
        del slot
        if self._staged is not None and self._bundles.active.loaded is self._staged:
            self._bundles.active.swap(self._kept)
            self._kept = None
        self._free()

    def reason_to_wait(self, machine: ConfigurationMachine, *, fetching: bool) -> str:
        return self._gate(machine, fetching)

    def rest(self, machine: ConfigurationMachine) -> None:
        self._free()
        kept = {self._configuration.path(slot) for slot in (machine.installed_slot, machine.previous_slot) if slot}
        for path in self.path.parent.glob("*.toml"):
            if path not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        self._free()

    def _free(self) -> None:
        for loaded in (self._staged, self._kept):
            if loaded is not None and loaded is not self._bundles.active.loaded:
                loaded.close()
        self._config = self._staged = self._kept = None


def _folder(local: AgentConfig) -> Path:
    return local.folder / "configuration"


def _path(local: AgentConfig, slot: str) -> Path:
    return _folder(local) / f"{slot}.toml"


def _read_content(local: AgentConfig, sha256: str) -> bytes:
    path = _path(local, sha256)
    content = path.read_bytes()
    if (actual := hashlib.sha256(content).hexdigest()) != sha256:
        raise ConfigError(
            f"{path} is damaged",
            expected=f"sha256 {sha256}",
            actual=actual,
            action="Restart the agent, which then fetches it again; check the disk if that happens again.",
        )
    return content


def _read(local: AgentConfig) -> ConfigurationMachine:
    machine = read_state(_folder(local) / "state.json", ConfigurationMachine) or ConfigurationMachine()
    if machine.installed is None or machine.installed_slot is not None:
        return machine
    # A file of lineside 0.1.0, which knew neither states nor slots.
    return msgspec.structs.replace(machine, state="active", installed_slot=machine.installed.sha256)
