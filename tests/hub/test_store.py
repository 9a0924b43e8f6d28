"""Chunks on other filesystems, pruning, backup and restore, and the gap that a restored hub must not stall at."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_hub.blobs import FolderBlobs, UrlBlobs
from lineside_hub.config import HubConfig, folder_config
from lineside_hub.identity.secure_site import secure
from lineside_hub.repository.backup import STAGING, backup, restore
from lineside_hub.repository.chunks import URL_NAME, ChunkStore
from lineside_hub.repository.pruning import prune
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.results.frames.rows import ResultKey, StoredFrame, open_rows
from lineside_hub.results.streams import RowBatch, read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_hub.rollouts.push import push, push_config
from lineside_link.config import LinkConfig
from lineside_link.messages import ResultRow, Results, encode
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import (
    BundleFormatError,
    ConfigError,
    InputError,
    InputNotFoundError,
    MissingExtraError,
    RollbackAttackError,
    SignatureError,
)
from lineside_runtime.files import scratch_folder
from tests.hub.sources import device
from tests.worlds.hub import make_repository

Make = Callable[..., Bundle]
GROUP = "line-a"


@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_pieces_lie_in_any_filesystem(tmp_path: Path, kind: str) -> None:
    url = {"file": f"file://{tmp_path}/chunks", "memory": f"memory://{tmp_path.name}"}.get(kind)
    place = FolderBlobs(tmp_path / "chunks") if url is None else UrlBlobs(url)
    (tmp_path / "chunks").mkdir()
    store = ChunkStore(place)
    digest = store.put(b"content")
    assert store.put(b"content") == digest
    assert store.get(digest) == b"content"
    assert store.get("0" * 64) is None
    assert list(place.names()) == [digest]
    place.write(digest, b"rotten")
    assert store.get(digest) is None
    assert store.rotten == 1
    store.put(b"content")
    assert store.get(digest) == b"content"
    place.remove(digest)
    place.remove(digest)
    assert list(place.names()) == []


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("s3://user:secret@bucket/x", ConfigError),
        ("nonsense://x", ConfigError),
        ("sftp://host/y", (MissingExtraError, ConfigError)),
    ],
)
def test_a_url_that_cannot_hold_pieces(url: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        UrlBlobs(url)
    assert "secret" not in str(caught.value)


def test_a_hub_with_its_pieces_elsewhere_serves_them(tmp_path: Path, make_bundle: Make) -> None:
    hub = tmp_path / "hub"
    url = f"file://{tmp_path}/elsewhere"
    arguments = ["hub", "init", str(hub), "--site", "t0", "--group", GROUP, "--chunks", url]
    assert main(arguments) == 0
    assert (hub / URL_NAME).read_text() == url
    push(hub, make_bundle("1.0.0", content=bytes(200_000)).path, group=GROUP)
    assert not list((hub / "chunks").glob("*/*"))
    repository = Repository.open(hub)
    assert all(repository.chunks.get(name) for name in repository.chunks.blobs.names())


def published(repository: Repository) -> set[str]:
    return {target.split("/")[1] for target in repository.targets_of(GROUP)}


def test_prune_says_first_and_takes_only_what_nobody_can_want(
    repository: Repository, make_bundle: Make, tmp_path: Path
) -> None:
    import os

    for number in range(6):
        push(repository.folder, make_bundle(f"{number}.0.0", content=bytes([number]) * 70_000).path, group=GROUP)
        for path in (repository.folder / "targets" / GROUP).glob(f"*surface-{number}*"):
            os.utime(path, (1000 + number, 1000 + number))
    targeted = Repository.open(repository.folder).find(GROUP, name="surface", version="1.0.0")
    from lineside_hub.rollouts.push import set_desired

    set_desired(repository.folder, targeted)
    before = published(repository)
    found = prune(repository.folder, keep=2)
    assert found.targets == tuple(f"{GROUP}/surface-{number}.0.0.json" for number in (0, 2, 3))
    assert found.chunks > 0
    assert published(repository) == before, "nothing happens without --yes"
    assert main(["hub", "prune", "--keep", "2", "--yes", "--hub", str(repository.folder)]) == 0
    assert published(repository) == {f"surface-{number}.0.0.json" for number in (1, 4, 5)}
    updater = device(repository, tmp_path / "device")
    updater.fetch_target(targeted.target, targeted.sha256)
    for number in (1, 4, 5):
        reference = repository.find(GROUP, name="surface", version=f"{number}.0.0")
        manifest = json.loads(repository.target_bytes(reference.target, reference.sha256))
        for entry in manifest["files"].values():
            assert all(repository.chunks.get(digest) for digest in entry["chunks"])
    assert prune(repository.folder, keep=2).targets == ()
    with pytest.raises(SystemExit):
        main(["hub", "prune", "--keep", "x", "--hub", str(repository.folder)])


def test_prune_takes_trials_that_a_killed_command_left(repository: Repository, make_bundle: Make) -> None:
    for version in ("1.0.0", "2.0.0"):
        repository.publish(make_bundle(version, content=version.encode()), GROUP, timing_only=True)
    (old,) = (repository.folder / "targets" / GROUP).glob("*.surface-1.0.0.trial.json")
    os.utime(old, (1.0, 1.0))
    found = prune(repository.folder, keep=1, dry_run=False)
    assert found.targets == (f"{GROUP}/surface-1.0.0.trial.json",) and found.chunks == 1
    assert repository.targets_of(GROUP) == (f"{GROUP}/surface-2.0.0.trial.json",)


def test_prune_keeps_configurations_that_are_followed(repository: Repository) -> None:
    for number in range(4):
        push_config(repository.folder, b"[inspect]\nthreads = %d\n" % (number + 1), group=GROUP)
    with Database.open(repository.folder) as database:
        last = {desired.config.target for desired in database.desired_states().values() if desired.config}
    prune(repository.folder, keep=1, dry_run=False)
    assert last <= set(repository.targets_of(GROUP))


def test_a_backup_is_taken_while_results_arrive(repository: Repository, make_bundle: Make, tmp_path: Path) -> None:
    push(repository.folder, make_bundle("1.0.0").path, group=GROUP)
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        database = Database.open(repository.folder)
        sink = ResultsSink(database)
        while not stop.is_set():
            with database.transaction():
                sink.write([batch(written + 1, written + 20)])
            written += 20
        database.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = backup(repository.folder, tmp_path / "hub.tar")
    finally:
        stop.set()
        writer.join(60)
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    restored = restore(made.path, tmp_path / "again")
    assert restored.rotated
    connection = sqlite3.connect(tmp_path / "again" / "hub.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    [(count, last)] = connection.execute("SELECT count(*), coalesce(max(seq), 0) FROM results").fetchall()
    connection.close()
    assert count == last, "whole transactions"


def batch(first: int, last: int, *, after: int = 0, through: int = -1) -> RowBatch:
    rows = tuple(ResultRow(seq=seq, part_id=f"p{seq}", verdict="pass") for seq in range(first, last + 1))
    return read_batch("cam-1", encode(Results(epoch="e", rows=rows, after=after, through=through)))


def test_a_restored_hub_is_believed_by_devices_that_saw_later_versions(
    repository: Repository, make_bundle: Make, tmp_path: Path
) -> None:
    first = push(repository.folder, make_bundle("1.0.0").path, group=GROUP)
    made = backup(repository.folder, tmp_path / "hub.tar")
    later = push(repository.folder, make_bundle("2.0.0", content=b"2").path, group=GROUP)
    for _ in range(5):
        repository.roles.renew()
    device(repository, tmp_path / "device").fetch_target(later.ref.target, later.ref.sha256)
    restored = restore(made.path, tmp_path / "again")
    assert restored.epoch > later.epoch
    again = Repository.open(tmp_path / "again")
    root = repository.root_bytes()
    device(again, tmp_path / "device", root=root).fetch_target(first.ref.target, first.ref.sha256)
    newer = push(again.folder, make_bundle("3.0.0", content=b"3").path, group=GROUP)
    assert (newer.epoch, newer.gen) > (later.epoch, later.gen)
    device(again, tmp_path / "device", root=root).fetch_target(newer.ref.target, newer.ref.sha256)


def test_without_the_root_keys_devices_take_it_for_a_rollback_until_they_are_brought(
    repository: Repository, make_bundle: Make, tmp_path: Path
) -> None:
    first = push(repository.folder, make_bundle("1.0.0").path, group=GROUP)
    made = backup(repository.folder, tmp_path / "hub.tar", offline_keys=False, chunks=False)
    assert not made.chunks
    for _ in range(3):
        repository.roles.renew()
    device(repository, tmp_path / "device").fetch_target(first.ref.target, first.ref.sha256)
    restored = restore(made.path, tmp_path / "again")
    assert not restored.rotated
    again = Repository.open(tmp_path / "again")
    with pytest.raises(RollbackAttackError):
        device(again, tmp_path / "device").fetch_target(first.ref.target, first.ref.sha256)
    (tmp_path / "again" / "keys").mkdir()
    for path in (repository.folder / "keys").iterdir():
        (tmp_path / "again" / "keys" / path.name).write_bytes(path.read_bytes())
    assert main(["hub", "keys", "rotate", "snapshot", "timestamp", "--hub", str(tmp_path / "again")]) == 0
    device(again, tmp_path / "device").fetch_target(first.ref.target, first.ref.sha256)


def test_a_backup_removes_what_a_killed_one_left_and_leaves_a_running_one_alone(
    repository: Repository, tmp_path: Path
) -> None:
    out, killed = tmp_path / "hub.tar", tmp_path / ".hub.tar.abcdefgh.tmp"
    killed.mkdir()
    (killed / "hub.sqlite").write_bytes(b"half a copy")
    with scratch_folder(out) as running:
        backup(repository.folder, out)
        assert running.is_dir() and not killed.exists()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_an_encrypted_root_key_needs_its_passphrase_for_the_restore(tmp_path: Path) -> None:
    made = Repository.create(tmp_path / "hub", groups=[GROUP], passphrase="correct horse")
    saved = backup(made.folder, tmp_path / "hub.tar")
    assert not restore(saved.path, tmp_path / "without").rotated
    assert restore(saved.path, tmp_path / "with", passphrase="correct horse").rotated
    with pytest.raises(SignatureError):
        Repository.open(tmp_path / "without").roles.rotate_top_level("timestamp")


def evil_tar(path: Path, name: str) -> Path:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
    return path


def test_what_is_no_backup_and_what_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "junk.tar").write_bytes(b"junk" * 1000)
    for path, kind in (
        (tmp_path / "none.tar", InputNotFoundError),
        (tmp_path / "junk.tar", BundleFormatError),
        (evil_tar(tmp_path / "up.tar", "../evil"), BundleFormatError),
        (evil_tar(tmp_path / "odd.tar", "other"), BundleFormatError),
    ):
        with pytest.raises(kind):
            restore(path, tmp_path / path.stem)
        assert not list(tmp_path.glob(f"{path.stem}/**/*")), "the next attempt finds an empty folder"
    assert not (tmp_path / "evil").exists()
    with pytest.raises(InputError):
        restore(tmp_path / "junk.tar", tmp_path)


def test_images_come_along_and_one_that_does_not_is_asked_for_again(repository: Repository, tmp_path: Path) -> None:
    home = repository.folder
    place = FolderBlobs(home / "frames")
    database = Database.open(home)
    config = HubConfig(folder=str(home), link=LinkConfig("mqtt://127.0.0.1", "t"))
    rows = open_rows(config, database)
    digests = []
    for seq, content in enumerate((b"first", b"second"), 1):
        digests.append(hashlib.sha256(content).hexdigest())
        place.write(digests[-1], content)
        rows.add(StoredFrame(ResultKey("cam-1", "e", seq), digests[-1], len(content)), 1)
    database.close()
    place.remove(digests[1])  # as retention does while the backup is taken
    for number, frames in enumerate((True, False)):
        made = backup(home, tmp_path / f"{number}.tar", frames=frames)
        assert made.frames == int(frames)
        restored = restore(made.path, tmp_path / f"again-{number}")
        assert restored.frames_missing == (1 if frames else 2)
        again = Database.open(restored.folder)
        known = open_rows(config, again)
        assert known.digest(ResultKey("cam-1", "e", 1)) == (digests[0] if frames else None)
        assert known.digest(ResultKey("cam-1", "e", 2)) is None
        again.close()
        assert FolderBlobs(restored.folder / "frames").read(digests[0]) == (b"first" if frames else None)


def test_the_commands_back_up_and_restore(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hub.tar"
    assert main(["hub", "backup", "--hub", str(repository.folder), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] > 5
    killed = tmp_path / "again" / STAGING
    killed.mkdir(parents=True)
    (killed / "hub.db").write_bytes(b"half")
    assert main(["hub", "restore", str(out), "--hub", str(tmp_path / "again"), "--json"]) == 0
    assert not killed.exists()
    assert json.loads(capsys.readouterr().out)["rotated"] is True
    assert main(["hub", "status", "--hub", str(tmp_path / "again")]) == 0
    assert main(["hub", "backup", "--hub", str(repository.folder), "--out", str(tmp_path / "none" / "hub.tar")]) == 1
    assert "[2002]" in capsys.readouterr().err


def test_a_backup_has_the_files_that_the_configuration_names_in_the_folder(
    repository: Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub, elsewhere = repository.folder, tmp_path / "elsewhere.pem"
    elsewhere.touch()
    (hub / "web").mkdir()
    for name in ("web/cert.pem", "web/key.pem"):
        (hub / name).write_text(name)
        (hub / name).chmod(0o600)
    web = '[web]\ntls_certificate = "web/cert.pem"\ntls_key = "web/key.pem"\n'
    link = f'[link]\nusername = "h"\npassword_file = "{elsewhere}"\nurl = "mqtt://127.0.0.1"\nsite = "t"\n'
    (hub / "hub.toml").write_text(f'folder = "."\n{web}{link}')
    again = restore(backup(hub, tmp_path / "hub.tar").path, tmp_path / "again").folder
    assert (again / "web" / "key.pem").read_text() == "web/key.pem"
    assert (again / "web" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert not [*again.rglob("elsewhere.pem")]
    (hub / "hub.toml").write_text("= broken")
    assert backup(hub, tmp_path / "broken.tar").files > 5, "what is broken is worth a backup, too"
    assert "is not in the backup" in caplog.text


@pytest.mark.parametrize("absolute", [False, True])
def test_a_restored_hub_and_its_broker_use_their_own_certificates(tmp_path: Path, absolute: bool) -> None:
    hub = make_repository(tmp_path / "hub", [GROUP]).folder
    (hub / "hub.toml").write_text('folder = "."\n[link]\nurl = "mqtt://127.0.0.1"\nsite = "t"\n')
    secure(hub, hosts=["127.0.0.1"])
    if absolute:  # as an older release wrote them
        text = (hub / "hub.toml").read_text()
        (hub / "hub.toml").write_text(text.replace('"identity/', f'"{hub.resolve()}/identity/'))
    again = restore(backup(hub, tmp_path / "hub.tar").path, tmp_path / "again").folder.resolve()
    broker = dict(line.split(" ", 1) for line in (again / "identity" / "mosquitto.conf").read_text().splitlines())
    link = folder_config(again).link
    paths = [*(broker[name] for name in ("cafile", "certfile", "keyfile", "crlfile", "acl_file")), link.ca, link.key]
    assert all(path is not None and Path(path).is_relative_to(again) and Path(path).is_file() for path in paths)


def test_rows_that_a_device_has_forgotten_do_not_stall_it(repository: Repository) -> None:
    database = Database.open(repository.folder)
    sink = ResultsSink(database)

    def write(message: RowBatch) -> tuple[int, list[str]]:
        with database.transaction():
            acks, events = sink.write([message])
        return acks["cam-1"].seq, [event.kind for event in events]

    assert write(batch(1, 5, after=0, through=5)) == (5, [])
    # A backup of now is restored later; meanwhile rows 6 to 20 were confirmed and forgotten.
    assert write(batch(21, 25)) == (5, []), "an older agent says nothing about the gap"
    assert write(batch(21, 25, after=8, through=25)) == (5, []), "it speaks of rows above 8: 6 to 8 may still come"
    assert write(batch(21, 25, after=5, through=25)) == (25, ["forgotten"])
    assert write(batch(26, 27, after=25, through=27)) == (27, [])
    assert write(batch(1, 0, after=27, through=30)) == (30, ["forgotten"]), "nothing at all is left up to 30"
    nonsense = batch(1, 0, after=50, through=3)
    assert (nonsense.after, nonsense.through) == (0, -1)
    database.close()
