"""TUF over a real broker: every attack of its specification that the link can carry, each refused with its code."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public by its documentation
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient.updater import Updater

from lineside_hub.repository.keys import KeyRing
from lineside_hub.repository.repository import Repository
from lineside_link.clock import ClockFloor
from lineside_link.messages import BundleRef
from lineside_link.transfer.pull_window import FetchStopped
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.trust import MAPPED, TrustStore, _tuf_errors_mapped
from lineside_runtime.bundle import Bundle, parse_manifest
from lineside_runtime.errors import (
    BundleIntegrityError,
    DiskFullError,
    ExpiredMetadataError,
    FetchError,
    LinesideError,
    RollbackAttackError,
    SignatureError,
    StoreError,
    TargetNotFoundError,
)
from tests.link.repo import RepoPeer
from tests.worlds.bundles import make_opaque_bundle

Device = Callable[..., TrustStore]
NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


class Attacker:
    """Has the repository's files in his hands, and as many keys as a test gives him."""

    def __init__(self, peer: RepoPeer) -> None:
        self.folder = peer.repository.folder
        self.metadata = self.folder / "metadata"
        self._saved = self.folder.parent / "saved"

    def key(self, role: str) -> CryptoSigner:
        online = role in ("snapshot", "timestamp")
        return KeyRing(self.folder / ("online" if online else "keys")).load(role)

    def save(self) -> None:
        shutil.copytree(self.metadata, self._saved)

    def put_back(self, *names: str) -> None:
        for name in names:
            shutil.copy(self._saved / name, self.metadata / name)

    def read(self, role: str) -> Metadata[Any]:
        """The newest metadata of a role."""
        if role == "timestamp":
            return Metadata.from_file(str(self.metadata / "timestamp.json"))
        paths = self.metadata.glob(f"*.{role}.json")
        return Metadata.from_file(str(max(paths, key=lambda path: int(path.name.split(".")[0]))))

    def write(self, md: Metadata[Any], role: str, key: CryptoSigner) -> MetaFile:
        md.sign(key)
        data = md.to_bytes()
        name = "timestamp.json" if role == "timestamp" else f"{md.signed.version}.{role}.json"
        (self.metadata / name).write_bytes(data)
        return MetaFile.from_data(md.signed.version, data, ["sha256"])

    def publish(self, role: str, md: Metadata[Any], key: CryptoSigner) -> None:
        """Puts a role's metadata under a new snapshot and timestamp, signed with the genuine online keys."""
        entry = self.write(md, role, key)
        snapshot: Metadata[Snapshot] = self.read("snapshot")
        snapshot.signed.version += 1
        snapshot.signed.meta[f"{role}.json"] = entry
        self.point_to(snapshot)

    def point_to(self, snapshot: Metadata[Snapshot], key: CryptoSigner | None = None) -> None:
        entry = self.write(snapshot, "snapshot", key or self.key("snapshot"))
        timestamp: Metadata[Timestamp] = self.read("timestamp")
        timestamp.signed.version += 1
        timestamp.signed.snapshot_meta = entry
        self.write(timestamp, "timestamp", self.key("timestamp"))

    def replace(self, role: str, change: Callable[[Any], None], key: CryptoSigner | None = None) -> None:
        """Puts a changed next version of a role's metadata in its place, signed with its own key or another one."""
        md, key = self.read(role), key or self.key(role)
        md.signed.version += 1
        change(md.signed)
        if role in ("root", "timestamp"):
            self.write(md, role, key)
        elif role == "snapshot":
            self.point_to(md, key)
        else:
            self.publish(role, md, key)


def expire(signed: Any) -> None:
    signed.expires = NOW - datetime.timedelta(hours=1)


@pytest.fixture
def attacker(peer: RepoPeer) -> Attacker:
    return Attacker(peer)


@pytest.fixture
def bundle(peer: RepoPeer, tmp_path: Path) -> Bundle:
    return make_opaque_bundle(tmp_path / "bundle", {"weights.bin": b"weights"})


@pytest.fixture
def published(peer: RepoPeer, bundle: Bundle) -> BundleRef:
    return peer.repository.publish(bundle, "line")


@pytest.fixture
def device(peer: RepoPeer, repo: RepoClient, tmp_path: Path) -> Device:
    def make(name: str = "device", *, root: bytes | None = None, now: datetime.datetime | None = None) -> TrustStore:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        clock = ClockFloor(folder / "floor") if now is None else ClockFloor(folder / "floor", now=lambda: now)
        return TrustStore(folder / "trust", root or peer.repository.root_bytes(), repo, clock)

    return make


def check(store: TrustStore, reference: BundleRef) -> bytes:
    return store.fetch_target(reference.target, reference.sha256)


def refused(store: TrustStore, reference: BundleRef, kind: type[LinesideError], code: int) -> LinesideError:
    with pytest.raises(kind) as caught:
        check(store, reference)
    assert caught.value.code == code
    return caught.value


def test_a_signed_manifest_comes_as_it_was_signed(device: Device, published: BundleRef, bundle: Bundle) -> None:
    data = check(device(), published)
    assert data == (bundle.path / "manifest.json").read_bytes()
    assert parse_manifest(data) == bundle.manifest


def test_each_check_sees_what_was_published_since(
    device: Device, peer: RepoPeer, published: BundleRef, tmp_path: Path
) -> None:
    store = device()
    check(store, published)
    second = peer.repository.publish(make_opaque_bundle(tmp_path / "second", {}, version="2.0.0"), "line")
    assert parse_manifest(check(store, second)).version == "2.0.0"
    assert parse_manifest(check(store, published)).version == "1.0.0"


def test_what_nobody_signed_is_not_found(device: Device, published: BundleRef) -> None:
    other = BundleRef(name="x", version="1", target="line/x-1.json", sha256=published.sha256)
    refused(device(), other, TargetNotFoundError, 3007)


def test_a_desired_state_for_another_content_than_was_signed(device: Device, published: BundleRef) -> None:
    forged = BundleRef(name=published.name, version=published.version, target=published.target, sha256="0" * 64)
    error = refused(device(), forged, BundleIntegrityError, 3002)
    assert published.sha256 in str(error)


# Attacks.


def test_rollback_of_the_timestamp(
    device: Device, peer: RepoPeer, attacker: Attacker, published: BundleRef, tmp_path: Path
) -> None:
    attacker.save()
    store = device()
    peer.repository.publish(make_opaque_bundle(tmp_path / "second", {}, version="2.0.0"), "line")
    check(store, published)
    attacker.put_back("timestamp.json")
    refused(store, published, RollbackAttackError, 3004)
    restarted = device()
    refused(restarted, published, RollbackAttackError, 3004)


def test_rollback_of_a_groups_role_with_the_online_keys(
    device: Device, peer: RepoPeer, attacker: Attacker, published: BundleRef, tmp_path: Path
) -> None:
    old = attacker.read("line")
    peer.repository.publish(make_opaque_bundle(tmp_path / "second", {}, version="2.0.0"), "line")
    store = device()
    check(store, published)
    attacker.publish("line", old, attacker.key("line"))
    refused(store, published, RollbackAttackError, 3004)


def test_metadata_that_is_never_renewed_expires_for_a_device_that_lives_on(
    device: Device, published: BundleRef
) -> None:
    check(device(), published)
    later = device(now=NOW + datetime.timedelta(days=2))
    refused(later, published, ExpiredMetadataError, 3005)


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "line"])
def test_every_role_expires(device: Device, attacker: Attacker, published: BundleRef, role: str) -> None:
    attacker.replace(role, expire)
    refused(device(), published, ExpiredMetadataError, 3005)


def test_mix_and_match(
    device: Device, peer: RepoPeer, attacker: Attacker, published: BundleRef, tmp_path: Path
) -> None:
    old = (attacker.metadata / f"{attacker.read('line').signed.version}.line.json").read_bytes()
    peer.repository.publish(make_opaque_bundle(tmp_path / "second", {}, version="2.0.0"), "line")
    (attacker.metadata / f"{attacker.read('line').signed.version}.line.json").write_bytes(old)
    refused(device(), published, BundleIntegrityError, 3002)


def test_endless_metadata(device: Device, attacker: Attacker, published: BundleRef) -> None:
    path = attacker.metadata / "timestamp.json"
    path.write_bytes(path.read_bytes() + b" " * (3 << 20))
    refused(device(), published, BundleIntegrityError, 3002)


def test_endless_target(device: Device, peer: RepoPeer, published: BundleRef) -> None:
    [path] = (peer.repository.folder / "targets" / "line").iterdir()
    path.write_bytes(path.read_bytes() + b" " * 500_000)
    refused(device(), published, BundleIntegrityError, 3002)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:]])
def test_a_damaged_manifest(
    device: Device, peer: RepoPeer, published: BundleRef, damage: Callable[[bytes], bytes]
) -> None:
    [path] = (peer.repository.folder / "targets" / "line").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    refused(device(), published, BundleIntegrityError, 3002)


def test_garbage_instead_of_metadata(device: Device, attacker: Attacker, published: BundleRef) -> None:
    (attacker.metadata / "timestamp.json").write_bytes(b"<html>captive portal</html>")
    refused(device(), published, BundleIntegrityError, 3002)


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "line"])
def test_a_foreign_key(device: Device, attacker: Attacker, published: BundleRef, role: str) -> None:
    attacker.replace(role, lambda _: None, CryptoSigner.generate_ed25519())
    refused(device(), published, SignatureError, 3003)


def test_another_hubs_root_in_the_device(device: Device, published: BundleRef, tmp_path: Path) -> None:
    foreign = Repository.create(tmp_path / "foreign", groups=("line",))
    refused(device(root=foreign.root_bytes()), published, SignatureError, 3003)


def test_metadata_without_signatures(device: Device, attacker: Attacker, published: BundleRef) -> None:
    timestamp = attacker.read("timestamp")
    timestamp.signed.version += 1
    timestamp.signatures.clear()
    (attacker.metadata / "timestamp.json").write_bytes(timestamp.to_bytes())
    refused(device(), published, SignatureError, 3003)


def test_a_stolen_group_key_signs_nothing_for_another_group(
    device: Device, attacker: Attacker, published: BundleRef
) -> None:
    target = TargetFile.from_data("line/evil-1.json", b"evil", ["sha256"])
    attacker.replace("other", lambda signed: setattr(signed, "targets", {"line/evil-1.json": target}))
    reference = BundleRef(name="evil", version="1", target="line/evil-1.json", sha256=target.hashes["sha256"])
    refused(device(), reference, TargetNotFoundError, 3007)


def test_a_role_that_the_snapshot_does_not_name(device: Device, attacker: Attacker, published: BundleRef) -> None:
    attacker.replace("snapshot", lambda signed: signed.meta.pop("line.json"))
    refused(device(), published, BundleIntegrityError, 3002)


# What is no attack.


def test_the_timestamps_key_can_be_replaced(device: Device, attacker: Attacker, published: BundleRef) -> None:
    store = device()
    check(store, published)
    new = CryptoSigner.generate_ed25519()

    def change(root: Root) -> None:
        root.revoke_key(attacker.key("timestamp").public_key.keyid, "timestamp")
        root.add_key(new.public_key, "timestamp")

    attacker.replace("root", change)
    refused(store, published, SignatureError, 3003)
    attacker.replace("timestamp", lambda _: None, new)
    assert check(store, published)
    assert check(device("new device"), published)


def test_damaged_files_on_the_device_are_fetched_again(device: Device, published: BundleRef, tmp_path: Path) -> None:
    store = device()
    check(store, published)
    for path in (tmp_path / "device" / "trust" / "metadata").rglob("*.json"):
        path.write_bytes(b"")
    assert check(store, published)


def test_a_planted_root_on_the_device_is_not_the_anchor(device: Device, published: BundleRef, tmp_path: Path) -> None:
    foreign = Repository.create(tmp_path / "foreign", groups=("line",))
    store = device()
    check(store, published)
    root = tmp_path / "device" / "trust" / "metadata" / "root_history" / "1.root.json"
    root.write_bytes(foreign.root_bytes())
    assert check(store, published)


def test_a_hub_that_is_away_is_a_fetch_error(
    device: Device, peer: RepoPeer, repo: RepoClient, published: BundleRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repo, "_stall_s", 3.0)
    peer.spoil = lambda head, body: None
    refused(device(), published, FetchError, 4004)


def test_a_file_that_is_missing_at_the_hub(device: Device, attacker: Attacker, published: BundleRef) -> None:
    (attacker.metadata / "timestamp.json").unlink()
    error = refused(device(), published, FetchError, 4004)
    assert isinstance(error.__cause__, tuf_errors.DownloadHTTPError)


def test_a_check_can_be_stopped(device: Device, peer: RepoPeer, published: BundleRef) -> None:
    peer.spoil = lambda head, body: None
    with pytest.raises(FetchStopped):
        device().fetch_target(published.target, published.sha256, should_stop=lambda: True)


# The clock.


def test_a_clock_that_fell_back_does_not_bring_expired_metadata_back(
    device: Device, attacker: Attacker, published: BundleRef
) -> None:
    check(device(), published)
    attacker.replace("timestamp", expire)
    in_1970 = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    refused(device(now=in_1970), published, ExpiredMetadataError, 3005)
    assert check(device("without a floor", now=in_1970), published), "without the floor it would be accepted"


def test_a_clock_far_ahead_does_not_lift_the_floor(device: Device, published: BundleRef, tmp_path: Path) -> None:
    far = NOW + datetime.timedelta(days=9000)
    refused(device(now=far), published, ExpiredMetadataError, 3005)
    assert not (tmp_path / "device" / "floor").exists()
    assert check(device(), published)


def test_the_updater_still_takes_its_time_from_where_we_set_it(peer: RepoPeer, tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    updater = Updater(str(tmp_path / "metadata"), "x:", bootstrap=peer.repository.root_bytes())
    assert isinstance(updater._trusted_set.reference_time, datetime.datetime)


# The map of errors.


def _exceptions() -> list[type[Exception]]:
    return [kind for kind in vars(tuf_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


def test_every_exception_of_python_tuf_is_mapped() -> None:
    assert set(MAPPED) == set(_exceptions())


@pytest.mark.parametrize("kind", [*_exceptions(), DeserializationError], ids=lambda kind: kind.__name__)
def test_no_exception_of_python_tuf_gets_out(kind: type[Exception]) -> None:
    arguments = ("x", 500) if kind is tuf_errors.DownloadHTTPError else ("x",)
    with pytest.raises(LinesideError) as caught, _tuf_errors_mapped("line/steel-1.json"):
        raise kind(*arguments)
    assert isinstance(caught.value.__cause__, kind)
    assert "line/steel-1.json" in str(caught.value)
    assert caught.value.code in (3002, 3003, 3004, 3005, 4004, StoreError.code)


def test_a_full_disk_under_the_metadata_is_said() -> None:
    with pytest.raises(DiskFullError), _tuf_errors_mapped("x"):
        raise OSError(28, "No space left on device")
