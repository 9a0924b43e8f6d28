"""What a signed target must be: of the device's group, and the artifact that is desired.

Apart from `fetch`, whose libraries an agent without a hub does not load.
"""

from __future__ import annotations

from lineside_link.messages import BundleRef
from lineside_runtime.bundle import Manifest, parse_manifest
from lineside_runtime.errors import BundleFormatError, SignatureError


def check_group(target: str, group: str) -> None:
    """Raises `SignatureError` for a target of another group than the device's, whoever desires it."""
    if not target.startswith(f"{group}/"):
        raise SignatureError(f"{target} is not for this device's group", expected=f"{group}/…", actual=target)


def read_manifest(data: bytes, bundle: BundleRef) -> Manifest:
    """Reads a signed manifest, which must be of the bundle that is wanted."""
    manifest = parse_manifest(data)
    if manifest.identity != bundle.identity:
        raise BundleFormatError("another bundle", expected=bundle.identity, actual=manifest.identity)
    return manifest
