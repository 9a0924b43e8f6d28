"""How a bundle comes to the device: signed manifest first, then what it names, chunk by chunk."""

from __future__ import annotations

from pathlib import Path

from lineside_agent.updater import Progress, ShouldStop
from lineside_link.fetch import RepoClient
from lineside_link.messages import BundleRef
from lineside_link.trust import TrustStore
from lineside_runtime.bundle import MANIFEST_NAME, parse_manifest
from lineside_runtime.errors import BundleFormatError, SignatureError
from lineside_runtime.files import write_atomic


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
        if not bundle.target.startswith(f"{self._group}/"):
            raise SignatureError(
                f"{bundle.target} is not for this device's group", expected=f"{self._group}/…", actual=bundle.target
            )
        data = self._trust.refresh_and_fetch_manifest(bundle.target, bundle.sha256, should_stop=should_stop)
        manifest = parse_manifest(data)
        if manifest.identity != bundle.identity:
            raise BundleFormatError("another bundle", expected=bundle.identity, actual=manifest.identity)
        self._repo.fetch_files(manifest, folder, on_progress=progress, should_stop=should_stop)
        write_atomic(folder / MANIFEST_NAME, data)
