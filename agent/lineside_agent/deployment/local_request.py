"""What a person at the device asks for: a bundle that was learned here, or a configuration that was made here.

::

    <folder>/local/
    ├── <sha256>/       a bundle
    └── <sha256>.toml   a configuration

It is deployed by the same machine as what the hub desires: tried in a process of its own, health-checked, rolled back.
Nothing here is signed. Who may ask for it is decided where it is offered, by ``agent.toml``; its target says that it
was made here, and by whom, also in the device's report. The hub's next desired state replaces it, and a request that
comes after that one is ignored: it has the generation of the hub's desired state that counted when it was made.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.machine import DeploymentMachine, generation
from lineside_agent.deployment.runner import ShouldStop
from lineside_link.messages import LOCAL_PREFIX, BundleRef, ConfigRef, Desired
from lineside_link.transfer.pull_window import FetchStopped
from lineside_runtime.bundle import MANIFEST_NAME, Bundle, open_bundle
from lineside_runtime.errors import FetchError, StoreError
from lineside_runtime.files import fsync_folder, write_atomic
from lineside_runtime.progress import CountListener

FOLDER = "local"

KEPT = 2
"""Bundles that are kept for a further try."""


class LocalRequests:
    """Holds what people at the device asked for, until it is in its slot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    def add_bundle(self, path: Path, by: str, *, after: Desired | None) -> DesiredChanged:
        """Takes a copy of a bundle, and returns the event that asks for it.

        Args:
            by: Name of the person.
            after: The hub's desired state that counted when the person asked.

        Raises:
            BundleError: It is damaged.
            StoreError: It can't be copied.
        """
        bundle = open_bundle(path)
        manifest = bundle.manifest
        place = self._folder / bundle.digest
        try:
            self._folder.mkdir(exist_ok=True)
            if not place.is_dir():
                temporary = place.with_suffix(".tmp")
                shutil.rmtree(temporary, ignore_errors=True)
                shutil.copytree(path, temporary)
                temporary.replace(place)
                fsync_folder(self._folder)
            self._remove_older(place)
        except OSError as error:
            raise StoreError(f"{place}: {error}") from error
        ref = BundleRef(name=manifest.name, version=manifest.version, target=LOCAL_PREFIX + by, sha256=bundle.digest)
        return DesiredChanged("local", _desired(after, "bundle", bundle=ref))

    def add_configuration(self, toml: bytes, by: str, *, after: Desired | None) -> DesiredChanged:
        """Takes a configuration, and returns the event that asks for it.

        Args:
            toml: As for `lineside_agent.config.read_settings`.

        Raises:
            StoreError: It can't be written.
        """
        ref = ConfigRef(target=LOCAL_PREFIX + by, sha256=hashlib.sha256(toml).hexdigest())
        try:
            self._folder.mkdir(exist_ok=True)
            write_atomic(self._folder / f"{ref.sha256}.toml", toml)
        except OSError as error:
            raise StoreError(f"{self._folder}: {error}") from error
        return DesiredChanged("local", _desired(after, "config", config=ref))

    def holds(self, ref: BundleRef | ConfigRef, machine: DeploymentMachine[Any]) -> bool:
        """Returns whether a person here asks for an artifact; that the hub names one of ours is not enough."""
        asked = machine.local_desired
        return ref.target.startswith(LOCAL_PREFIX) and asked is not None and ref in (asked.bundle, asked.config)

    def fetch_bundle(self, ref: BundleRef, folder: Path, progress: CountListener, should_stop: ShouldStop) -> None:
        """As `lineside_agent.deployment.fetch.Fetcher.fetch`, from here.

        Raises:
            FetchError: It is not here any more.
        """
        bundle = self._bundle(ref)
        done, total = 0, bundle.manifest.size_bytes
        for relative in bundle.manifest.files:
            if should_stop():
                raise FetchStopped
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            data = bundle.file(relative).read_bytes()
            write_atomic(target, data)
            done += len(data)
            progress(done, total)
        write_atomic(folder / MANIFEST_NAME, (bundle.path / MANIFEST_NAME).read_bytes())

    def fetch_configuration(self, ref: ConfigRef) -> bytes:
        """As `lineside_agent.deployment.fetch.Fetcher.fetch_configuration`, from here.

        Raises:
            FetchError: It is not here any more.
        """
        try:
            return (self._folder / f"{ref.sha256}.toml").read_bytes()
        except OSError as error:
            raise FetchError(f"{ref.target} is not here any more: {error}", status=404) from error

    def _bundle(self, ref: BundleRef) -> Bundle:
        place = self._folder / ref.sha256
        if not place.is_dir():
            raise FetchError(f"{ref.identity} of {ref.target} is not here any more", status=404)
        return open_bundle(place)

    def _remove_older(self, newest: Path) -> None:
        """Removes bundles but the newest ones; what was installed lies in its slot."""
        others = (path for path in self._folder.iterdir() if path.is_dir() and path != newest)
        for path in sorted(others, key=lambda one: one.stat().st_mtime, reverse=True)[KEPT - 1 :]:
            shutil.rmtree(path, ignore_errors=True)


def _desired(
    after: Desired | None, part: str, *, bundle: BundleRef | None = None, config: ConfigRef | None = None
) -> Desired:
    """Returns the desired state, under the generation of the hub's that it follows."""
    epoch, gen = generation(after)
    asked = {part: int(time.time())}  # each request is an attempt of its own, also after one that failed
    return Desired(epoch=epoch, gen=gen, bundle=bundle, config=config, gens=asked)
