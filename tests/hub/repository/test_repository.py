from __future__ import annotations

import datetime
import logging
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tuf.api.exceptions import DownloadHTTPError, RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from lineside_hub.repository.keys import KeyRing
from lineside_hub.repository.metadata import MetadataFolder
from lineside_hub.repository.repository import Repository
from lineside_link.messages import TIMING_SUFFIX, BundleRef
from lineside_runtime.bundle import Bundle, open_bundle, parse_manifest
from lineside_runtime.errors import (
    BundleFormatError,
    BundleIntegrityError,
    ConfigError,
    InputNotFoundError,
    RolloutError,
    SignatureError,
    TargetNotFoundError,
)

GROUP = "line-a"
Make = Callable[..., Bundle]


class FolderFetcher(FetcherInterface):
    """Gives python-tuf's client the repository's files; nothing of ours in between."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self._folder / url.removeprefix("repo:")
        if not path.is_file():
            raise DownloadHTTPError(f"no {url}", 404)
        return iter([path.read_bytes()])


@pytest.fixture
def client(tmp_path: Path, repository: Repository) -> Callable[[], Updater]:
    """Makes plain python-tuf clients that share one device's memory."""
    state = tmp_path / "client"
    for part in ("metadata", "targets"):
        (state / part).mkdir(parents=True)

    def make() -> Updater:
        updater = Updater(
            str(state / "metadata"),
            "repo:metadata/",
            str(state / "targets"),
            "repo:targets/",
            fetcher=FolderFetcher(repository.folder),
            bootstrap=repository.root_bytes(),
        )
        updater.refresh()
        return updater

    return make


def download(updater: Updater, target: str) -> bytes:
    info = updater.get_targetinfo(target)
    assert info is not None
    return Path(updater.download_target(info)).read_bytes()


def test_a_plain_tuf_client_gets_what_was_published(
    repository: Repository, client: Callable[[], Updater], make_bundle: Make
) -> None:
    bundle = make_bundle("1.0.0", content=random.Random(1).randbytes(150_000))
    ref = repository.publish(bundle, GROUP)
    assert ref == BundleRef(name="surface", version="1.0.0", target="line-a/surface-1.0.0.json", sha256=bundle.digest)
    manifest = parse_manifest(download(client(), ref.target))
    entry = manifest.files["onnx-int8/model.onnx"]
    content = b"".join(repository.chunks.get(digest) or b"" for digest in entry.chunks)
    assert len(entry.chunks) == 3
    assert content == (bundle.path / "onnx-int8" / "model.onnx").read_bytes()


def test_a_client_follows_from_version_to_version_and_over_a_renewal(
    repository: Repository, client: Callable[[], Updater], make_bundle: Make
) -> None:
    first = repository.publish(make_bundle("1.0.0"), GROUP)
    client()
    second = repository.publish(make_bundle("1.1.0", content=b"better"), GROUP)
    repository.roles.renew()
    repository.roles.renew_offline()
    updater = client()
    assert download(updater, first.target) != download(updater, second.target)
    assert updater._trusted_set.root.version == 2


def test_publishing_the_same_again_changes_no_metadata_but_heals_chunks(
    repository: Repository, make_bundle: Make
) -> None:
    bundle = make_bundle("1.0.0")
    ref = repository.publish(bundle, GROUP)
    before = sorted(path.name for path in (repository.folder / "metadata").iterdir())
    digest = bundle.manifest.files["onnx-int8/model.onnx"].chunks[0]
    (repository.folder / "chunks" / digest[:2] / digest).write_bytes(b"rot")
    assert repository.publish(bundle, GROUP) == ref
    assert sorted(path.name for path in (repository.folder / "metadata").iterdir()) == before
    assert repository.chunks.get(digest) == b"model"


def test_one_name_and_version_never_gets_another_content(repository: Repository, make_bundle: Make) -> None:
    repository.publish(make_bundle("1.0.0"), GROUP)
    with pytest.raises(RolloutError, match="another content"):
        repository.publish(make_bundle("1.0.0", content=b"other"), GROUP)


def test_a_trial_is_signed_beside_the_bundle_of_the_same_name_and_withdrawn(
    repository: Repository, client: Callable[[], Updater], make_bundle: Make
) -> None:
    bundle = make_bundle("1.0.0")
    run, trial = repository.publish(bundle, GROUP), repository.publish(bundle, GROUP, timing_only=True)
    assert (run.target, trial.target) == (f"{GROUP}/surface-1.0.0.json", f"{GROUP}/surface-1.0.0{TIMING_SUFFIX}")
    assert client().get_targetinfo(trial.target) is not None
    another = repository.publish(make_bundle("1.0.0", content=b"another"), GROUP, timing_only=True)
    assert another.target == trial.target and another.sha256 != trial.sha256
    for _ in range(2):
        repository.withdraw(trial.target)
        assert repository.targets_of(GROUP) == (run.target,)
    assert [path.name.partition(".")[2] for path in (repository.folder / "targets" / GROUP).iterdir()] == [
        "surface-1.0.0.json"
    ]
    with pytest.raises(ConfigError, match=r"\.trial"):
        repository.publish(make_bundle("1.trial"), GROUP)


def test_a_damaged_bundle_is_not_signed(
    repository: Repository, client: Callable[[], Updater], make_bundle: Make
) -> None:
    bundle = make_bundle("1.0.0")
    (bundle.path / "onnx-int8" / "model.onnx").write_bytes(b"modem")
    with pytest.raises(BundleIntegrityError):
        repository.publish(open_bundle(bundle.path, verify=False), GROUP)
    assert client().get_targetinfo("line-a/surface-1.0.0.json") is None


def test_chunks_that_the_manifest_lies_about_are_not_signed(repository: Repository, make_bundle: Make) -> None:
    bundle = make_bundle("1.0.0")
    manifest = bundle.path / "manifest.json"
    entry = bundle.manifest.files["onnx-int8/model.onnx"]
    assert entry.chunks == (entry.sha256,)
    text = manifest.read_text()
    head, _, tail = text.rpartition(entry.sha256)
    manifest.write_text(head + "0" * 64 + tail)
    with pytest.raises(BundleIntegrityError):
        repository.publish(open_bundle(bundle.path, verify=False), GROUP)


def test_an_unknown_group_is_named_with_the_known_ones(repository: Repository, make_bundle: Make) -> None:
    with pytest.raises(RolloutError, match=r"line-b.*expected line-a"):
        repository.publish(make_bundle("1.0.0"), "line-b")
    with pytest.raises(RolloutError):
        repository.find("line-b", name="surface", version="1.0.0")


def test_a_group_is_added_later_and_only_once(
    repository: Repository, client: Callable[[], Updater], make_bundle: Make
) -> None:
    repository.roles.add_group("line-b")
    key = (repository.folder / "keys" / "line-b.pem").read_bytes()
    repository.roles.add_group("line-b")
    assert (repository.folder / "keys" / "line-b.pem").read_bytes() == key
    assert repository.groups() == ("line-a", "line-b")
    ref = repository.publish(make_bundle("1.0.0"), "line-b")
    assert download(client(), ref.target)


@pytest.mark.parametrize("name", ["root", "targets", "snapshot", "timestamp", "", "a/b", "../x", "*", "a b"])
def test_names_that_cannot_be_a_group(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        Repository.create(tmp_path / "other", groups=[name])


def test_a_groups_key_signs_nothing_of_another_group(
    repository: Repository, client: Callable[[], Updater], make_bundle: Make
) -> None:
    repository.roles.add_group("line-b")
    genuine = repository.publish(make_bundle("1.0.0"), "line-b")
    signers = {role: KeyRing(repository.folder / "online").load(role) for role in ("snapshot", "timestamp")}
    signers["line-a"] = KeyRing(repository.folder / "keys").load("line-a")
    edit = MetadataFolder(repository.folder / "metadata", signers)
    with edit.edit_targets("line-a") as targets:
        targets.targets[genuine.target] = TargetFile.from_data(genuine.target, b"evil", ["sha256"])
    edit.publish()
    info = client().get_targetinfo(genuine.target)
    assert info is not None
    assert info.hashes["sha256"] == genuine.sha256


def test_a_client_refuses_what_a_foreign_key_signed(
    repository: Repository, client: Callable[[], Updater], tmp_path: Path, make_bundle: Make
) -> None:
    ref = repository.publish(make_bundle("1.0.0"), GROUP)
    path = repository.folder / "metadata" / "2.line-a.json"
    forged: Metadata[Targets] = Metadata.from_file(str(path))
    forged.signed.targets[ref.target] = TargetFile.from_data(ref.target, b"evil", ["sha256"])
    forged.sign(KeyRing(tmp_path / "foreign").ensure("line-a"))
    forged.to_file(str(path))
    with pytest.raises(RepositoryError):
        client().get_targetinfo(ref.target)


def test_signing_with_a_key_that_is_not_trusted_is_refused_here_already(
    repository: Repository, make_bundle: Make
) -> None:
    (repository.folder / "keys" / "line-a.pem").unlink()
    KeyRing(repository.folder / "keys").ensure("line-a")
    with pytest.raises(SignatureError, match="line-a"):
        repository.publish(make_bundle("1.0.0"), GROUP)


def test_keys_carried_away_are_asked_for(repository: Repository, make_bundle: Make) -> None:
    (repository.folder / "keys").rename(repository.folder.parent / "usb-stick")
    repository.roles.renew()
    with pytest.raises(InputNotFoundError, match="Bring the medium"):
        repository.publish(make_bundle("1.0.0"), GROUP)
    assert not (repository.folder / "keys").exists()


def test_a_passphrase_guards_the_keys_of_persons_and_no_others(tmp_path: Path, make_bundle: Make) -> None:
    folder = tmp_path / "guarded"
    Repository.create(folder, groups=[GROUP], passphrase="correct horse")
    for path in (folder / "keys").iterdir():
        assert b"ENCRYPTED PRIVATE KEY" in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for passphrase, what in ((None, "needs a passphrase"), ("wrong", "cannot be opened")):
        repository = Repository.open(folder, passphrase=passphrase)
        repository.roles.renew()
        with pytest.raises(SignatureError, match=f"{what}. Give .* --ask-passphrase"):
            repository.publish(make_bundle("1.0.0"), GROUP)
    Repository.open(folder, passphrase="correct horse").publish(make_bundle("1.0.0"), GROUP)


def test_no_key_is_logged(tmp_path: Path, make_bundle: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    repository = Repository.create(tmp_path / "quiet", groups=[GROUP], passphrase="correct horse")
    repository.publish(make_bundle("1.0.0"), GROUP)
    secret = (tmp_path / "quiet" / "online" / "timestamp.pem").read_text().splitlines()[1]
    said = caplog.text + repr(vars(repository)) + repr(repository)
    assert secret not in said
    assert "published surface@1.0.0" in caplog.text
    assert "correct horse" not in caplog.text + repr(repository)


def test_a_repository_is_made_once(repository: Repository) -> None:
    with pytest.raises(RolloutError, match="already"):
        Repository.create(repository.folder, groups=[GROUP])
    with pytest.raises(InputNotFoundError):
        Repository.open(repository.folder.parent / "nowhere")


def test_find_returns_what_was_published(repository: Repository, make_bundle: Make) -> None:
    ref = repository.publish(make_bundle("1.0.0"), GROUP)
    assert repository.find(GROUP, name="surface", version="1.0.0") == ref
    with pytest.raises(TargetNotFoundError):
        repository.find(GROUP, name="surface", version="9.9.9")
    with pytest.raises(TargetNotFoundError):
        repository.find(GROUP, name="surface", version="1.0.0", sha256="0" * 64)


def test_expiries_are_as_decided_and_renewed(repository: Repository) -> None:
    def days_left(role: str) -> float:
        expires = MetadataFolder(repository.folder / "metadata").open(role).signed.expires
        return (expires - datetime.datetime.now(datetime.timezone.utc)) / datetime.timedelta(days=1)

    lifetimes = {"root": 365, "targets": 365, "line-a": 90, "snapshot": 7, "timestamp": 1}
    for role, days in lifetimes.items():
        assert days - 0.01 < days_left(role) <= days
    before = MetadataFolder(repository.folder / "metadata").timestamp().version
    repository.roles.renew()
    assert MetadataFolder(repository.folder / "metadata").timestamp().version == before + 1
    assert MetadataFolder(repository.folder / "metadata").snapshot().version == 1


def test_a_person_is_warned_before_a_signature_expires(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert repository.roles.expiring() == []
    monkeypatch.setattr("lineside_hub.repository.metadata.GROUP_LIFETIME_DAYS", 10)
    repository.roles.renew_offline()
    assert [expiry.role for expiry in repository.roles.expiring()] == [GROUP]
    repository.roles.renew()
    assert "signature of line-a expires" in caplog.text


class Killed(BaseException):
    """Stands for SIGKILL: nothing in between handles it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int, *, after: bool) -> None:
    """Ends the process, as far as the disk is concerned, before or after its ``number``-th rename."""
    seen = 0
    rename = Path.replace

    def counted(self: Path, target: Path) -> Path:
        nonlocal seen
        seen += 1
        if seen == number and not after:
            raise Killed
        moved = rename(self, target)
        if seen == number:
            raise Killed
        return moved

    monkeypatch.setattr(Path, "replace", counted)


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_write_of_a_publish_leaves_the_old_or_the_new(
    repository: Repository,
    client: Callable[[], Updater],
    make_bundle: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    after: bool,
) -> None:
    old = repository.publish(make_bundle("1.0.0"), GROUP)
    new = make_bundle("2.0.0", content=random.Random(2).randbytes(150_000))
    shutil.copytree(repository.folder, tmp_path / "before")
    seen = []
    for number in range(1, 50):
        shutil.rmtree(repository.folder)
        shutil.rmtree(tmp_path / "client" / "metadata")
        (tmp_path / "client" / "metadata").mkdir()
        shutil.copytree(tmp_path / "before", repository.folder)
        killed = publish_killed_at(monkeypatch, repository, new, number, after=after)
        updater = client()
        assert download(updater, old.target)
        found = updater.get_targetinfo("line-a/surface-2.0.0.json") is not None
        seen.append(found)
        if found:
            manifest = parse_manifest(download(updater, "line-a/surface-2.0.0.json"))
            pieces = [digest for entry in manifest.files.values() for digest in entry.chunks]
            assert all(repository.chunks.get(digest) for digest in pieces)
        if not killed:
            break
        repository.publish(new, GROUP)
        assert download(client(), "line-a/surface-2.0.0.json")
    # Three new chunks, the manifest, group, snapshot and timestamp; only the last one makes it count.
    assert seen == [False] * 6 + [after, True]


def publish_killed_at(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, bundle: Bundle, number: int, *, after: bool
) -> bool:
    with monkeypatch.context() as patch:
        kill_at(patch, number, after=after)
        try:
            repository.publish(bundle, GROUP)
        except Killed:
            return True
    return False


def test_a_kill_at_any_write_of_the_first_metadata_is_finished_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 30):
        with monkeypatch.context() as patch:
            kill_at(patch, number, after=bool(number % 2))
            try:
                made = Repository.create(tmp_path / "half", groups=[GROUP, "line-b"])
                break
            except (Killed, RolloutError) as ended:
                last = ended
        if isinstance(last, RolloutError):
            made = Repository.open(tmp_path / "half")
            break
    made.roles.renew()
    made.roles.renew_offline()
    assert made.groups() == (GROUP, "line-b")


PUBLISH_FOR_EVER = """
import sys
from pathlib import Path
from lineside_hub.repository.repository import Repository
from lineside_runtime.bundle import open_bundle
repository = Repository.open(sys.argv[1])
bundles = [open_bundle(path) for path in sorted(Path(sys.argv[2]).iterdir())]
for group in range(1000 * int(sys.argv[3]), 1000 * int(sys.argv[3]) + 1000):
    repository.roles.add_group(f"group-{group}")
    for bundle in bundles:
        repository.publish(bundle, f"group-{group}")
        print(f"group-{group}/surface-{bundle.manifest.version}.json", flush=True)
"""


def test_what_was_published_is_there_after_kill_9(
    repository: Repository, client: Callable[[], Updater], make_bundle: Make, tmp_path: Path
) -> None:
    for number in range(3):
        make_bundle(f"{number}.0.0", content=bytes([number]) * 100_000)
    command = [sys.executable, "-c", PUBLISH_FOR_EVER, str(repository.folder), str(tmp_path / "bundles")]
    patience = random.Random(3)
    published: set[str] = set()
    for number in range(4):
        process = subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        published |= {process.stdout.readline().strip() for _ in range(2)}
        timer = threading.Timer(patience.uniform(0.0, 0.15), os.kill, (process.pid, signal.SIGKILL))
        timer.start()
        published |= {line.strip() for line in process.stdout if line.endswith("\n")}
        timer.join()
        process.stdout.close()
        assert process.wait(60) == -signal.SIGKILL
        updater = client()
        assert all(download(updater, target) for target in published)
    assert len(published) >= 8


def test_two_publishers_wait_for_one_another(
    repository: Repository, client: Callable[[], Updater], make_bundle: Make
) -> None:
    bundles = [make_bundle(f"{number}.0.0", content=bytes([number])) for number in range(6)]
    threads = [
        threading.Thread(target=lambda part=part: [repository.publish(bundle, GROUP) for bundle in part])
        for part in (bundles[:3], bundles[3:])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    updater = client()
    for number in range(6):
        assert download(updater, f"line-a/surface-{number}.0.0.json")
    assert MetadataFolder(repository.folder / "metadata").snapshot().version == 7


def test_a_bundle_whose_name_leaves_the_folder_is_refused(repository: Repository, make_bundle: Make) -> None:
    bundle = make_bundle("1.0.0")
    manifest = bundle.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"surface"', '"../../../keys/x"'))
    with pytest.raises(BundleFormatError):
        open_bundle(bundle.path)
    unchecked = msgspec.structs.replace(bundle.manifest, name="../../../keys/x")
    with pytest.raises(ConfigError):
        repository.publish(Bundle(bundle.path, unchecked, bundle.digest), GROUP)


def test_unsigned_metadata_is_what_python_tuf_says(repository: Repository, client: Callable[[], Updater]) -> None:
    path = repository.folder / "metadata" / "timestamp.json"
    metadata = Metadata.from_file(str(path))
    metadata.signatures.clear()
    metadata.to_file(str(path))
    with pytest.raises(UnsignedMetadataError):
        client()
