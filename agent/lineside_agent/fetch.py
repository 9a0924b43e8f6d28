"""How a bundle comes to the device: signed manifest first, then what it names, chunk by chunk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from lineside_agent.self_update.payload import MANIFEST_NAME as AGENT_MANIFEST_NAME
from lineside_agent.self_update.payload import AgentManifest, parse_agent_manifest
from lineside_agent.updater import Progress, ShouldStop
from lineside_link.fetch import RepoClient
from lineside_link.messages import BundleRef
from lineside_link.trust import TrustStore
from lineside_runtime.bundle import MANIFEST_NAME, parse_manifest
from lineside_runtime.errors import BundleFormatError, SignatureError
from lineside_runtime.files import write_atomic

Seed = Callable[[AgentManifest], None]


class Fetcher:
    """Brings bundles of one group.

    Args:
        group: A target of another group is refused, whoever asks for it.
        trust: Says what is signed.
        repo: Brings the chunks.
    """

    def __init__(self, group: str, *, trust: TrustStore, repo: RepoClient) -> None:
        self._group = group
        self._trust = trust
        self._repo = repo
        self._checking = threading.Lock()  # the bundle's and the agent's own update may ask at once

    def bring(self, bundle: BundleRef, folder: Path, progress: Progress, should_stop: ShouldStop) -> None:
        """Brings a bundle into a folder; done again it goes on where it ended.

        Args:
            bundle: What is wanted.
            folder: Where its files go.
            progress: Told the bytes that are there, and all.
            should_stop: Asked between pieces.

        Raises:
            SignatureError: It is of another group, or not signed for it.
            BundleError: Metadata, manifest or a chunk is forged, old, expired or damaged.
            FetchError: The hub doesn't answer.
            DiskFullError: There is no room.
            lineside_link.fetch.FetchStopped: Asked to.
        """
        data = self._signed(bundle, should_stop)
        manifest = parse_manifest(data)
        if manifest.identity != bundle.identity:
            raise BundleFormatError("another bundle", expected=bundle.identity, actual=manifest.identity)
        self._repo.fetch_files(manifest, folder, on_progress=progress, should_stop=should_stop)
        write_atomic(folder / MANIFEST_NAME, data)

    def bring_agent(self, agent: BundleRef, folder: Path, seed: Seed, should_stop: ShouldStop) -> None:
        """Brings an agent's payload into a folder; done again it goes on where it ended.

        Args:
            agent: What is wanted.
            folder: Where its files go.
            seed: Told the manifest before anything is fetched; puts files there that are at hand already.
            should_stop: Asked between pieces.

        Raises:
            SignatureError: It is of another group, or not signed for it.
            BundleError: Metadata, manifest or a chunk is forged, old, expired or damaged.
            FetchError: The hub doesn't answer.
            DiskFullError: There is no room.
            lineside_link.fetch.FetchStopped: Asked to.
        """
        data = self._signed(agent, should_stop)
        manifest = parse_agent_manifest(data)
        if manifest.version != agent.version:
            raise BundleFormatError("another agent", expected=agent.version, actual=manifest.version)
        seed(manifest)
        self._repo.fetch_files(manifest, folder, should_stop=should_stop)
        write_atomic(folder / AGENT_MANIFEST_NAME, data)

    def _signed(self, reference: BundleRef, should_stop: ShouldStop) -> bytes:
        """Returns the signed manifest of a target of this device's group."""
        if not reference.target.startswith(f"{self._group}/"):
            raise SignatureError(
                f"{reference.target} is not for this device's group",
                expected=f"{self._group}/…",
                actual=reference.target,
            )
        with self._checking:
            return self._trust.refresh_and_fetch_manifest(reference.target, reference.sha256, should_stop=should_stop)
