"""Fetch an artifact: the signed manifest first, then the files that it names, chunk by chunk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from lineside_agent.config import SETTINGS_MAX_BYTES
from lineside_agent.deployment.runner import ShouldStop
from lineside_agent.deployment.self_update.payload import MANIFEST_NAME as AGENT_MANIFEST_NAME
from lineside_agent.deployment.self_update.payload import AgentManifest, parse_agent_manifest
from lineside_agent.deployment.signed_target import check_group, read_manifest
from lineside_link.messages import TIMING_SUFFIX, BundleRef, ConfigRef, Transfer
from lineside_link.transfer.assembly import FetchReport
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.transfer.transfer import ChunkSource, fetch_files
from lineside_link.trust import TrustStore
from lineside_runtime.bundle import MANIFEST_NAME, Bundle, Manifest, open_bundle
from lineside_runtime.errors import BundleFormatError, LinesideError, SignatureError
from lineside_runtime.files import write_atomic
from lineside_runtime.progress import CountListener

log = logging.getLogger("lineside.update")

Seed = Callable[[AgentManifest], None]


class Fetcher:
    """Fetches artifacts of one group. A fetch that is done again goes on where it ended.

    All methods raise

    - `SignatureError` for an artifact of another group, or one that is not signed for it,
    - `BundleError` for metadata or content that is forged, old, expired or damaged,
    - `FetchError` if the hub doesn't answer, and `DiskFullError`,
    - `lineside_link.transfer.pull_window.FetchStopped` when ``should_stop``, which is asked between pieces, says so.

    Args:
        installed: Folder of the bundle that runs, for patches to start from; ``None`` for whole files only.

    Attributes:
        last: Statistics of the last fetch of a bundle; ``None`` before the first.
    """

    def __init__(self, group: str, *, trust: TrustStore, repo: RepoClient, installed: Path | None = None) -> None:
        self.last: Transfer | None = None
        self._group = group
        self._trust = trust
        self._repo = repo
        self._installed = installed
        self._checking = threading.Lock()  # deployments of a bundle and of the agent may ask at once

    def fetch(self, bundle: BundleRef, folder: Path, progress: CountListener, should_stop: ShouldStop) -> None:
        """Fetches a bundle into a folder; one that was signed only to be timed is refused.

        Args:
            progress: Takes the bytes that are there, and all.
        """
        if bundle.target.endswith(TIMING_SUFFIX):
            raise SignatureError(f"{bundle.target} was signed to be timed, not to be run", actual=bundle.target)
        manifest, report = self._fetch(bundle, folder, progress, should_stop)
        self.last = Transfer(
            link_bytes=report.fetched_bytes,
            multicast_bytes=report.multicast_bytes,
            file_bytes=manifest.size_bytes,
            patched=report.patched,
            fallbacks=report.fallbacks,
        )
        log.info(
            "%s: %d bytes over the link for %d of files", bundle.identity, report.fetched_bytes, manifest.size_bytes
        )

    def fetch_trial(self, bundle: BundleRef, folder: Path, progress: CountListener, should_stop: ShouldStop) -> None:
        """As `fetch`, for a bundle that is to be timed: also one that may not run here."""
        self._fetch(bundle, folder, progress, should_stop)

    def _fetch(
        self, bundle: BundleRef, folder: Path, progress: CountListener, should_stop: ShouldStop
    ) -> tuple[Manifest, FetchReport]:
        data = self._signed(bundle, should_stop)
        manifest = read_manifest(data, bundle)
        source = ChunkSource(bundle.target, bundle.sha256, self._open_installed())
        report = fetch_files(self._repo, manifest, folder, source=source, on_progress=progress, should_stop=should_stop)
        write_atomic(folder / MANIFEST_NAME, data)
        return manifest, report

    def fetch_agent(self, agent: BundleRef, folder: Path, seed: Seed, should_stop: ShouldStop) -> None:
        """Fetches an agent's payload into a folder.

        Args:
            seed: Takes the manifest before anything is fetched, and puts files into the folder that are at hand.
        """
        data = self._signed(agent, should_stop)
        manifest = parse_agent_manifest(data)
        if manifest.version != agent.version:
            raise BundleFormatError("another agent", expected=agent.version, actual=manifest.version)
        seed(manifest)
        fetch_files(self._repo, manifest, folder, should_stop=should_stop)
        write_atomic(folder / AGENT_MANIFEST_NAME, data)

    def fetch_configuration(self, config: ConfigRef, should_stop: ShouldStop) -> bytes:
        """Returns the content of a configuration."""
        check_group(config.target, self._group)
        with self._checking:
            return self._trust.fetch_target(
                config.target, config.sha256, max_bytes=SETTINGS_MAX_BYTES, should_stop=should_stop
            )

    def _signed(self, reference: BundleRef, should_stop: ShouldStop) -> bytes:
        """Returns the signed manifest of a target of this device's group."""
        check_group(reference.target, self._group)
        with self._checking:
            return self._trust.fetch_target(reference.target, reference.sha256, should_stop=should_stop)

    def _open_installed(self) -> Bundle | None:
        """The bundle that runs, its files unread: what a patch makes of them is hashed."""
        if self._installed is None or not self._installed.is_dir():
            return None
        try:
            return open_bundle(self._installed.resolve(), verify=False)
        except LinesideError as error:
            log.warning("no patches: the installed bundle can't be read: %s", error)
            return None
