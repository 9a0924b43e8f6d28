"""Keys: rotation, revocation, several root keys, and what devices make of it."""

from __future__ import annotations

import datetime
import json
import logging
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from tuf.api.metadata import Metadata

from lineside.cli import main
from lineside_hub.fleet.status import read_status, warnings
from lineside_hub.identity.authority import Authority
from lineside_hub.repository import metadata, root_ceremony
from lineside_hub.repository.key_encryption import ROUNDS
from lineside_hub.repository.keys import KeyRing, new_key_file, read_key_file
from lineside_hub.repository.metadata import MetadataFolder
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.rollouts.push import push
from lineside_link.messages import BundleRef
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import (
    BundleIntegrityError,
    ConfigError,
    InputError,
    InputNotFoundError,
    RolloutError,
    SignatureError,
    TargetNotFoundError,
)
from tests.hub.sources import device

Make = Callable[..., Bundle]


@pytest.fixture
def published(repository: Repository, make_bundle: Make) -> BundleRef:
    return repository.publish(make_bundle("1.0.0"), "line-a")


def check(repository: Repository, folder: Path, reference: BundleRef) -> bytes:
    return device(repository, folder).fetch_target(reference.target, reference.sha256)


@pytest.mark.parametrize("roles", [("timestamp",), ("snapshot", "timestamp"), ("targets",), ("root",)])
def test_a_device_follows_a_rotation(
    repository: Repository, published: BundleRef, tmp_path: Path, roles: tuple[str, ...]
) -> None:
    check(repository, tmp_path / "device", published)
    before = {role: repository.roles.keys_of(role)[1] for role in roles}
    _, state = repository.roles.rotate_top_level(*roles)
    assert state.complete
    for role in roles:
        assert not set(before[role]) & set(repository.roles.keys_of(role)[1])
        assert repository.roles.keys_of(role)[2] == 1, "the old private key is gone"
    check(repository, tmp_path / "device", published)
    check(repository, tmp_path / "new-device", published)
    repository.roles.renew()
    check(repository, tmp_path / "device", published)


def test_at_no_time_does_a_device_meet_a_root_that_its_timestamp_does_not_fit(
    repository: Repository, published: BundleRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    write = MetadataFolder.write

    def observed(self: MetadataFolder, role: str, md: Metadata) -> None:  # type: ignore[type-arg]  # metadata of any role
        write(self, role, md)
        check(repository, tmp_path / f"device-{len(seen)}", published)
        seen.append(role)

    monkeypatch.setattr(MetadataFolder, "write", observed)
    repository.roles.rotate_top_level("targets", "snapshot", "timestamp")
    assert seen == ["targets", "snapshot", "timestamp", "root"]


def test_a_group_gets_a_new_key_and_the_stolen_one_is_worth_nothing(
    repository: Repository, published: BundleRef, make_bundle: Make, tmp_path: Path
) -> None:
    stolen = KeyRing(repository.folder / "keys").load("line-a")
    repository.roles.rotate_group("line-a")
    check(repository, tmp_path / "device", published)
    online = {role: KeyRing(repository.folder / "online").load(role) for role in ("snapshot", "timestamp")}
    thief = MetadataFolder(repository.folder / "metadata", {**online, "line-a": stolen})
    with pytest.raises(SignatureError), thief.edit_targets("line-a"):
        pass
    newer = repository.publish(make_bundle("2.0.0", content=b"new"), "line-a")
    check(repository, tmp_path / "device", newer)


def test_a_revoked_group_is_refused_until_it_gets_a_key_again(
    repository: Repository, published: BundleRef, make_bundle: Make, tmp_path: Path
) -> None:
    check(repository, tmp_path / "device", published)
    key = repository.roles.keys_of("line-a")[1]
    with Database.open(repository.folder) as database, database.transaction():
        database.connection.execute("INSERT INTO devices (device, group_name) VALUES ('cam-1', 'line-a')")
    assert warnings(repository.folder) == []
    repository.roles.revoke_group("line-a")
    [warning] = warnings(repository.folder)
    assert warning.startswith("line-a has 1 device and no key") and read_status(repository.folder).warnings == (
        warning,
    )
    with pytest.raises(TargetNotFoundError):
        check(repository, tmp_path / "device", published)
    with pytest.raises(RolloutError):
        repository.publish(make_bundle("2.0.0"), "line-a")
    repository.roles.add_group("line-a")
    assert not set(key) & set(repository.roles.keys_of("line-a")[1]) and warnings(repository.folder) == []
    check(repository, tmp_path / "device", repository.publish(make_bundle("3.0.0"), "line-a"))


def test_a_machine_pushes_to_a_canary_group_without_a_passphrase(tmp_path: Path, make_bundle: Make) -> None:
    repository = Repository.create(
        tmp_path / "hub", groups=["line-a"], online_groups=["canary"], passphrase="correct horse"
    )
    bundle = make_bundle("1.0.0")
    push(repository.folder, bundle.path, group="canary")
    with pytest.raises(SignatureError):
        push(repository.folder, bundle.path, group="line-a")
    expiries = {expiry.role: expiry.renewed_by for expiry in repository.roles.expiries()}
    assert expiries == {
        "root": "person",
        "targets": "person",
        "snapshot": "hub",
        "timestamp": "hub",
        "canary": "hub",
        "line-a": "person",
    }


def test_the_key_of_a_group_is_in_the_place_that_a_person_asks_for_or_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = str(tmp_path / "hub")
    assert main(["hub", "init", hub, "--site", "t", "--group", "line-a", "--online-group", "line-a"]) == 1
    assert "both: line-a" in capsys.readouterr().err
    assert main(["hub", "init", hub, "--site", "t", "--group", "line-a", "--online-group", "canary"]) == 0
    assert main(["hub", "add-group", "line-a", "--online", "--hub", hub]) == 1
    assert "lineside hub keys rotate line-a --online" in capsys.readouterr().err
    assert main(["hub", "add-group", "canary", "--hub", hub]) == 1
    assert "lineside hub keys rotate canary --offline" in capsys.readouterr().err
    assert main(["hub", "add-group", "canary", "--online", "--hub", hub]) == 0


def test_the_hub_renews_an_online_group_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineside_hub.repository.metadata.GROUP_LIFETIME_DAYS", 30)
    made = Repository.create(tmp_path / "hub", groups=["line-a"], online_groups=["canary"])
    monkeypatch.undo()
    Repository.open(made.folder).roles.renew()
    left = {expiry.role: expiry.days_left for expiry in made.roles.expiries()}
    assert left["canary"] > 80
    assert 29 < left["line-a"] < 31
    assert [expiry.role for expiry in made.roles.expiring()] == ["line-a"]


def test_a_group_moves_between_the_hub_and_a_person(repository: Repository, make_bundle: Make) -> None:
    repository.roles.rotate_group("line-a", online=True)
    assert {expiry.role: expiry.renewed_by for expiry in repository.roles.expiries()}["line-a"] == "hub"
    assert not (repository.folder / "keys" / "line-a.pem").exists()
    repository.publish(make_bundle("1.0.0"), "line-a")
    repository.roles.rotate_group("line-a", online=False)
    assert {expiry.role: expiry.renewed_by for expiry in repository.roles.expiries()}["line-a"] == "person"
    repository.publish(make_bundle("2.0.0"), "line-a")


def test_two_of_three_root_keys_sign_at_their_own_desks(
    tmp_path: Path, make_bundle: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    hub, desk = str(tmp_path / "hub"), tmp_path / "desk"
    desk.mkdir()
    phrase = desk / "phrase"
    phrase.write_text("correct horse battery\n")
    phrase.chmod(0o600)
    repository = Repository.create(hub, groups=["line-a"])
    reference = repository.publish(make_bundle("1.0.0"), "line-a")
    check(repository, tmp_path / "device", reference)
    for name in ("anna", "ben", "cleo"):
        assert main(["hub", "keys", "make", str(desk / f"{name}.pem"), "--passphrase-file", str(phrase)]) == 0
    draft = str(desk / "draft.json")
    adding = [word for name in ("anna", "ben", "cleo") for word in ("--add", str(desk / f"{name}.pem.pub.json"))]
    first = json.loads(Path(hub, "metadata", "1.root.json").read_text())["signed"]["roles"]["root"]["keyids"][0]
    change = [*adding, "--remove", first[:10], "--threshold", "2"]
    assert main(["hub", "keys", "draft", *change, "--out", draft, "--hub", hub]) == 0
    assert main(["hub", "keys", "publish", draft, "--hub", hub]) == 1
    for number, name in enumerate(("anna", "ben")):
        key = str(desk / f"{name}.pem")
        assert main(["hub", "keys", "sign", draft, "--key", key, "--passphrase-file", str(phrase)]) == 0
        assert main(["hub", "keys", "publish", draft, "--hub", hub]) == 1, f"the old root has not signed ({number})"
    old = str(Path(hub, "keys", "root.pem"))
    assert main(["hub", "keys", "sign", draft, "--key", old]) == 0
    assert main(["hub", "keys", "publish", draft, "--hub", hub]) == 0
    assert not Path(old).exists(), "nothing trusts it any more"
    check(repository, tmp_path / "device", reference)
    assert repository.roles.keys_of("root")[0] == 2
    # From here on one person alone changes nothing, though he has the hub's folder.
    one = read_key_file(desk / "anna.pem", passphrase="correct horse battery")
    alone = root_ceremony.draft(Path(hub, "metadata"), lambda root: root.revoke_key(one.public_key.keyid, "root"))
    root_ceremony.sign(alone, [one])
    with pytest.raises(SignatureError, match="lacks signatures"):
        repository.roles.publish_root(alone)
    capsys.readouterr()
    assert main(["hub", "keys", "rotate", "timestamp", "--hub", hub]) == 1
    assert "--draft" in capsys.readouterr().err
    assert main(["hub", "keys", "rotate", "timestamp", "--hub", hub, "--draft", draft]) == 0
    check(repository, tmp_path / "device", reference)
    for name in ("ben", "cleo"):
        key = str(desk / f"{name}.pem")
        assert main(["hub", "keys", "sign", draft, "--key", key, "--passphrase-file", str(phrase)]) == 0
    assert main(["hub", "keys", "publish", draft, "--hub", hub]) == 0
    check(repository, tmp_path / "device", reference)
    repository.roles.renew()
    check(repository, tmp_path / "device", reference)


def test_a_hub_made_with_a_threshold_signs_with_all_its_keys_while_they_are_here(
    tmp_path: Path, make_bundle: Make
) -> None:
    repository = Repository.create(tmp_path / "hub", groups=["line-a"], root_keys=3, root_threshold=2)
    reference = repository.publish(make_bundle("1.0.0"), "line-a")
    repository.roles.renew_offline()
    check(repository, tmp_path / "device", reference)
    for path in KeyRing(repository.folder / "keys").paths("root")[:2]:
        path.unlink()
    with pytest.raises(SignatureError, match="more signatures"):
        repository.roles.renew_offline("root")
    with pytest.raises(ConfigError):
        repository.roles.rotate_top_level("root")
    with pytest.raises(ConfigError):
        repository.roles.rotate_top_level("root", keyid="zz")
    with pytest.raises(ConfigError):
        repository.roles.change_root(lambda root: setattr(root.roles["root"], "threshold", 4))


@pytest.mark.parametrize(("keys", "threshold"), [(1, 2), (0, 0), (3, 0), (17, 1)])
def test_a_threshold_that_nobody_can_meet(tmp_path: Path, keys: int, threshold: int) -> None:
    with pytest.raises(ConfigError):
        Repository.create(tmp_path / "hub", root_keys=keys, root_threshold=threshold)
    assert not (tmp_path / "hub" / "keys").exists()


def test_a_draft_of_yesterday_is_refused(repository: Repository) -> None:
    old = root_ceremony.draft(repository.folder / "metadata", lambda _: None)
    root_ceremony.sign(old, [KeyRing(repository.folder / "keys").load("root")])
    repository.roles.rotate_top_level("timestamp")
    with pytest.raises(SignatureError, match="comes next"):
        repository.roles.publish_root(old)


def test_guessing_the_passphrase_of_a_stolen_key_is_slow_and_keys_of_before_still_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside_hub.repository.key_encryption.ROUNDS", ROUNDS)
    new_key_file(tmp_path / "mine.pem", passphrase="secret words")
    Authority.create(tmp_path / "ca", site="t0", passphrase="secret words")
    Authority.open(tmp_path / "ca", passphrase="secret words")
    for made in (tmp_path / "mine.pem", tmp_path / "ca" / "ca.key"):
        command = ["openssl", "asn1parse", "-in", str(made)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f":{ROUNDS:06X}" in said, "rounds of PBKDF2"
    begin_s = time.process_time()
    with pytest.raises(SignatureError):
        read_key_file(tmp_path / "mine.pem", passphrase="a guess")
    assert time.process_time() - begin_s > 0.05
    before = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret words")
    )
    (tmp_path / "old.pem").write_bytes(before)
    read_key_file(tmp_path / "old.pem", passphrase="secret words")


def test_what_is_no_draft_and_no_key(tmp_path: Path, repository: Repository) -> None:
    (tmp_path / "junk").write_bytes(b"\xff{")
    targets = next((repository.folder / "metadata").glob("*.targets.json"))
    for path, kind in ((tmp_path / "none", InputNotFoundError), (tmp_path / "junk", BundleIntegrityError)):
        with pytest.raises(kind):
            root_ceremony.read(path)
        with pytest.raises(kind):
            root_ceremony.read_public(path)
    with pytest.raises(BundleIntegrityError):
        root_ceremony.read(targets)
    with pytest.raises(BundleIntegrityError):
        root_ceremony.read_public(targets)
    new_key_file(tmp_path / "mine.pem", passphrase="secret words")
    assert stat.S_IMODE((tmp_path / "mine.pem").stat().st_mode) == 0o600
    with pytest.raises(InputError):
        new_key_file(tmp_path / "mine.pem")
    for phrase in (None, "wrong"):
        with pytest.raises(SignatureError):
            read_key_file(tmp_path / "mine.pem", passphrase=phrase)


def test_status_says_long_before_what_a_person_must_renew(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("lineside_hub.repository.metadata.GROUP_LIFETIME_DAYS", 25)
    made = Repository.create(tmp_path / "hub", groups=["line-a"])
    monkeypatch.undo()
    assert len(warnings(made.folder)) == 1
    assert main(["hub", "status", "--hub", str(made.folder), "--json"]) == 1
    status = json.loads(capsys.readouterr().out)
    assert "lineside hub keys renew line-a" in status["warnings"][0]
    assert {role["role"]: role["renewed_by"] for role in status["roles"]}["timestamp"] == "hub"
    with caplog.at_level(logging.WARNING):
        made.roles.renew()
    assert any("line-a expires" in record.getMessage() for record in caplog.records)
    assert main(["hub", "keys", "renew", "line-a", "--hub", str(made.folder)]) == 0
    assert read_status(made.folder).warnings == ()
    assert main(["hub", "status", "--hub", str(made.folder)]) == 0
    assert main(["hub", "keys", "ls", "--hub", str(made.folder)]) == 0
    assert "line-a" in capsys.readouterr().out


def test_an_expired_timestamp_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(metadata.LIFETIME_DAYS, "timestamp", -1)
    made = Repository.create(tmp_path / "hub", groups=["line-a"])
    assert "timestamp has expired: start the hub" in warnings(made.folder)[0]
    assert made.roles.expiries()[3].at < datetime.datetime.now(datetime.timezone.utc)


def test_a_killed_rotation_is_finished_by_the_next_renewal(
    repository: Repository, published: BundleRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    check(repository, tmp_path / "device", published)
    monkeypatch.setattr(KeyRing, "discard", killed)
    with pytest.raises(KeyboardInterrupt):
        repository.roles.rotate_top_level("snapshot", "timestamp")
    monkeypatch.undo()
    again = Repository.open(repository.folder)
    again.roles.renew()
    check(again, tmp_path / "device", published)
    check(again, tmp_path / "another", again.find("line-a", name="surface", version="1.0.0"))


def test_commands_revoke_and_rotate(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    hub = str(repository.folder)
    assert main(["hub", "keys", "rotate", "targets", "timestamp", "line-a", "--online", "--hub", hub]) == 0
    assert main(["hub", "keys", "revoke", "line-a", "--hub", hub]) == 0
    assert main(["hub", "keys", "revoke", "line-a", "--hub", hub]) == 1
    assert main(["hub", "keys", "revoke", "timestamp", "--hub", hub]) == 1
    assert main(["hub", "add-group", "line-a", "--hub", hub]) == 0
    assert main(["hub", "add-group", "canary", "--online", "--hub", hub]) == 0
    assert repository.groups() == ("canary", "line-a")
    assert "[5003]" in capsys.readouterr().err
