"""A bundle on a USB stick: checked as over the air, and everything that a stick may be instead."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_agent.deployment.offline_import import DESIRED_NAME, OfflineArchive, OfflineImport, archive_trust, copy_in
from lineside_hub.repository.offline_export import ExportedBundle, export
from lineside_hub.repository.repository import Repository
from lineside_link.clock import ClockFloor
from lineside_link.messages import Desired, decode, encode
from lineside_link.trust import TrustStore
from lineside_runtime.bundle.archive import unpack_archive
from lineside_runtime.errors import (
    BadInputFormatError,
    BundleFormatError,
    BundleIntegrityError,
    ConfigError,
    ExpiredMetadataError,
    InputNotFoundError,
    LinesideError,
    RollbackAttackError,
    SignatureError,
    TargetNotFoundError,
)
from tests.hub.sources import device
from tests.peers import wait_for
from tests.worlds.agent import AgentProcess, folder_camera, write_agent, write_frames
from tests.worlds.bundles import make_bundle
from tests.worlds.hub import make_repository

GROUP = "line"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportedBundle]:
    """A folder with a repository, a bundle, and the bundle's export."""
    folder = tmp_path_factory.mktemp("shelf")
    make_repository(folder / "hub", [GROUP, "other"])
    bundle = make_bundle(folder / "bundle", ballast=200_000)
    return folder, export(folder / "hub", bundle, group=GROUP, out=folder / "x.lsb")


@pytest.fixture
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    """An empty repository; where a test has an `exported` bundle, a copy of that which published it."""
    if "exported" not in request.fixturenames:
        return make_repository(tmp_path / "hub", [GROUP, "other"])
    shutil.copytree(request.getfixturevalue("shelf")[0], tmp_path, dirs_exist_ok=True)
    return Repository.open(tmp_path / "hub")


@pytest.fixture
def exported(shelf: tuple[Path, ExportedBundle], repository: Repository) -> ExportedBundle:
    return dataclasses.replace(shelf[1], path=repository.folder.parent / "x.lsb")


def check(path: Path, repository: Repository, state: Path, *, group: str = GROUP, root: bytes | None = None) -> None:
    state.mkdir(exist_ok=True)
    (state / "root.json").write_bytes(root or repository.root_bytes())
    stick = OfflineArchive(path)
    stick.verify(trust=archive_trust(stick, state, state / "root.json"), group=group)


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None], *, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    made = path.with_name("evil.lsb")
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made


def test_a_stick_is_whole_and_still_a_bundle_for_everybody(
    exported: ExportedBundle, repository: Repository, tmp_path: Path
) -> None:
    check(exported.path, repository, tmp_path / "state")
    assert OfflineArchive(exported.path).desired().bundle == exported.ref
    assert unpack_archive(exported.path, tmp_path / "unpacked").manifest.identity == exported.ref.identity


def test_the_way_over_the_air_goes_on_and_then_the_stick_is_old(
    exported: ExportedBundle, repository: Repository, tmp_path: Path
) -> None:
    check(exported.path, repository, tmp_path / "state")
    over_the_air = device(repository, tmp_path / "state")
    over_the_air.fetch_target(exported.ref.target, exported.ref.sha256)
    with pytest.raises(RollbackAttackError):
        check(exported.path, repository, tmp_path / "state")
    days = {expiry.role: expiry.days_left for expiry in repository.roles.expiries()}
    assert days["timestamp"] <= 1, "the hub's own timestamp lives no longer than before"
    again = export(repository.folder, ("bright-spots", "1.0.0"), group=GROUP, out=tmp_path / "again.lsb")
    assert again.gen > exported.gen
    check(again.path, repository, tmp_path / "state")


def change_desired_state(**changes: object) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        desired = json.loads(files[DESIRED_NAME])
        desired["bundle"].update(changes)
        files[DESIRED_NAME] = json.dumps(desired).encode()

    return change


Change = Callable[[dict[str, bytes]], None]


def spoil(name: str) -> Change:
    def change(files: dict[str, bytes]) -> None:
        [found] = [known for known in files if known.endswith(name)]
        files[found] = files[found][:-1] + b"!"

    return change


def drop(name: str) -> Change:
    def change(files: dict[str, bytes]) -> None:
        for known in list(files):
            if known.endswith(name):
                del files[known]

    return change


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        (spoil("ballast.bin"), BundleIntegrityError, 3002),
        (spoil("model.onnx"), BundleIntegrityError, 3002),
        (spoil("manifest.json"), BundleIntegrityError, 3002),
        (drop("ballast.bin"), BundleFormatError, 3001),
        (drop("timestamp.json"), LinesideError, 4004),
        (drop(DESIRED_NAME), BundleFormatError, 3001),
        (lambda files: files.update({DESIRED_NAME: b"{}"}), BadInputFormatError, 2003),
        (lambda files: files.update({DESIRED_NAME: b" " * 100_000}), BundleFormatError, 3001),
        (change_desired_state(target="line/evil-1.0.0.json"), SignatureError, 3003),
        (change_desired_state(sha256="0" * 64), SignatureError, 3003),
        (change_desired_state(name="other"), SignatureError, 3003),
        (lambda files: files.update({"manifest.json": b"x" * (1 << 20)}), BundleIntegrityError, 3002),
    ],
)
def test_what_was_changed_on_the_stick_is_refused_with_its_code(
    exported: ExportedBundle,
    repository: Repository,
    tmp_path: Path,
    change: Change,
    kind: type[LinesideError],
    code: int,
) -> None:
    evil = rewritten(exported.path, change)
    with pytest.raises(kind) as caught:
        check(evil, repository, tmp_path / "state")
    assert caught.value.code == code


def test_foreign_keys_groups_and_compression_are_refused(
    exported: ExportedBundle, repository: Repository, tmp_path: Path
) -> None:
    other = Repository.create(tmp_path / "other-hub", groups=[GROUP])
    with pytest.raises(SignatureError):
        check(exported.path, repository, tmp_path / "state", root=other.root_bytes())
    with pytest.raises(SignatureError, match="group"):
        check(exported.path, repository, tmp_path / "state2", group="other")
    packed = rewritten(exported.path, lambda _: None, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleFormatError):
        check(packed, repository, tmp_path / "state3")
    (tmp_path / "junk.lsb").write_bytes(b"junk" * 100)
    with pytest.raises(BundleFormatError):
        OfflineArchive(tmp_path / "junk.lsb").desired()
    with pytest.raises(InputNotFoundError):
        OfflineArchive(tmp_path / "none.lsb")
    for days in (0.0, 31.0):
        with pytest.raises(ConfigError):
            export(repository.folder, ("bright-spots", "1.0.0"), group=GROUP, out=tmp_path / "y.lsb", days=days)
    with pytest.raises(TargetNotFoundError):
        export(repository.folder, ("bright-spots", "9"), group=GROUP, out=tmp_path / "y.lsb")


def test_an_old_stick_is_refused(exported: ExportedBundle, repository: Repository, tmp_path: Path) -> None:
    stick = OfflineArchive(exported.path)
    now = datetime.datetime.now(datetime.timezone.utc)
    for days, good in ((6, True), (8, False)):
        folder = tmp_path / f"after-{days}"
        folder.mkdir()
        later = now + datetime.timedelta(days=days)
        clock = ClockFloor(folder / "clock", now=lambda: later)  # noqa: B023
        trust = TrustStore(folder / "trust", repository.root_bytes(), stick, clock)
        if good:
            stick.verify(trust=trust, group=GROUP)
        else:
            with pytest.raises(ExpiredMetadataError):
                stick.verify(trust=trust, group=GROUP)


def test_a_path_that_leaves_the_folder_never_gets_there(
    exported: ExportedBundle, repository: Repository, tmp_path: Path
) -> None:
    evil = rewritten(exported.path, lambda files: files.update({"../../evil": b"evil", "/tmp/evil": b"evil"}))
    check(evil, repository, tmp_path / "state")  # what the signed manifest doesn't name is not looked at
    with pytest.raises(BundleFormatError):
        unpack_archive(evil, tmp_path / "unpacked")
    assert not (tmp_path / "evil").exists()


def test_what_cannot_be_read_in_the_import_folder_is_removed_and_said(tmp_path: Path) -> None:
    (tmp_path / "import").mkdir()
    (tmp_path / "import" / "junk.lsb").write_bytes(b"junk")
    (tmp_path / "import" / ".half.lsb.tmp").write_bytes(b"half")
    imports = OfflineImport(tmp_path, group=GROUP, root=None)
    assert imports.find_new() == []
    assert imports.find_new() == []
    assert not (tmp_path / "import" / "junk.lsb").exists()


def imports_of(repository: Repository, state: Path) -> OfflineImport:
    state.mkdir(exist_ok=True)
    (state / "root.json").write_bytes(repository.root_bytes())
    return OfflineImport(state, group=GROUP, root=state / "root.json")


def test_an_archive_that_is_still_being_copied_is_left_until_it_is_whole(
    exported: ExportedBundle, repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "import").mkdir()
    data = exported.path.read_bytes()
    imports = imports_of(repository, tmp_path)
    with (tmp_path / "import" / "by-hand.lsb").open("wb") as copy:
        for start in range(0, len(data), len(data) // 3):
            assert imports.find_new() == []
            copy.write(data[start : start + len(data) // 3])
            copy.flush()
    [desired] = imports.find_new()
    assert desired.bundle == exported.ref


@pytest.mark.parametrize("change", [{"epoch": 2**62}, {"gen": 2**62}, {"rollout": "stick-2"}])
def test_a_desired_state_that_the_hub_did_not_sign_is_never_heard(
    exported: ExportedBundle, repository: Repository, tmp_path: Path, change: dict[str, object]
) -> None:
    imports = imports_of(repository, tmp_path / "state")

    def edit(files: dict[str, bytes]) -> None:
        files[DESIRED_NAME] = json.dumps({**json.loads(files[DESIRED_NAME]), **change}).encode()

    copy_in(rewritten(exported.path, edit), tmp_path / "state")
    assert imports.find_new() == []
    assert list((tmp_path / "state" / "import").iterdir()) == []
    copy_in(exported.path, tmp_path / "state")
    [desired] = imports.find_new()
    assert desired.gen == exported.gen


def test_a_desired_state_of_another_stick_of_the_same_hub_is_refused(
    exported: ExportedBundle, repository: Repository, tmp_path: Path
) -> None:
    newer = export(repository.folder, ("bright-spots", "1.0.0"), group=GROUP, out=tmp_path / "newer.lsb")
    with zipfile.ZipFile(newer.path) as archive:
        other = archive.read(DESIRED_NAME)
    with pytest.raises(SignatureError, match="desired state"):
        check(
            rewritten(exported.path, lambda files: files.update({DESIRED_NAME: other})), repository, tmp_path / "state"
        )


def test_an_archive_that_cannot_be_checked_yet_stays(
    exported: ExportedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    copy_in(exported.path, tmp_path / "state")
    imports = OfflineImport(tmp_path / "state", group=GROUP, root=None)
    assert [imports.find_new(), imports.find_new()] == [[], []]
    assert len(list((tmp_path / "state" / "import").iterdir())) == 1
    assert len([record for record in caplog.records if "root.json" in record.message]) == 1


def test_an_archive_stays_until_its_desired_state_is_answered(
    exported: ExportedBundle, repository: Repository, tmp_path: Path
) -> None:
    copy_in(exported.path, tmp_path / "state")
    imports = imports_of(repository, tmp_path / "state")
    [desired] = imports.find_new()
    assert imports.find_new() == []
    imports.answered(desired.epoch, desired.gen - 1)
    assert imports.holds(exported.ref)
    imports.answered(desired.epoch, desired.gen)
    assert not imports.holds(exported.ref)
    assert list((tmp_path / "state" / "import").iterdir()) == []


def test_an_agent_without_a_link_takes_a_stick_and_refuses_a_forged_one(
    exported: ExportedBundle, repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = tmp_path / "box"
    write_frames(box / "frames", 4)
    (box / "root.json").write_bytes(repository.root_bytes())
    first = make_bundle(tmp_path / "factory", version="0.9.0", gain=20.0)
    toml = write_agent(
        box,
        group=GROUP,
        root="root.json",
        bundle=str(first.path),
        camera=folder_camera(loop=True, rate_hz=20.0),
        inspect={"health_frames": 2, "health_timeout_s": 2.0},
    )
    agent = AgentProcess(box)
    agent.start()
    try:
        wait_for(lambda: agent.status.get("inspected", 0) > 4, 60, what="frames")
        evil = rewritten(exported.path, spoil("ballast.bin"))
        assert main(["agent", "import", str(evil), "--config", str(toml)]) == 1
        assert "[3002]" in capsys.readouterr().err
        assert main(["agent", "import", str(exported.path), "--config", str(toml), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["taken"], said["error"]) == (True, None)
        assert agent.status["installed"] == "bright-spots@1.0.0"
        # Put there past the command, as whoever has the disk can: the agent checks it itself, and goes on.
        newer = export(repository.folder, make_bundle(tmp_path / "newer", version="2.0.0", gain=30.0), group=GROUP,
                       out=tmp_path / "newer.lsb")  # fmt: skip
        shutil.copyfile(rewritten(newer.path, spoil("model.onnx")), box / "state" / "import" / "evil.lsb")
        wait_for(lambda: "[3002]" in str(agent.status["error"]), 60, what="the refusal")
        assert agent.status["installed"] == "bright-spots@1.0.0"
        assert agent.alive
        replayed = Desired(epoch=1, gen=1, bundle=decode(encode(OfflineArchive(newer.path).desired()), Desired).bundle)
        old = rewritten(newer.path, lambda files: files.update({DESIRED_NAME: encode(replayed)}))
        shutil.copyfile(old, box / "state" / "import" / "old.lsb")
        wait_for(
            lambda: not (box / "state" / "import" / "old.lsb").exists(), 60, what="the old desired state to be dropped"
        )
        assert agent.status["installed"] == "bright-spots@1.0.0"
    finally:
        assert agent.stop() == 0


def test_the_export_command_takes_a_folder_or_a_name(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = str(repository.folder)
    bundle = make_bundle(tmp_path / "bundle")
    out = str(tmp_path / "x.lsb")
    assert main(["hub", "export", str(bundle.path), "--group", GROUP, "--hub", hub, "--out", out]) == 0
    arguments = ["hub", "export", "bright-spots@1.0.0", "--group", GROUP, "--hub", hub, "--out", out, "--json"]
    capsys.readouterr()
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["days"] == 7.0
    zoo = ["hub", "export", "surface-12", "--group", GROUP, "--hub", hub, "--out", out, "--json"]
    assert main(zoo) == 0
    assert json.loads(capsys.readouterr().out)["ref"]["name"] == "surface-12"
    assert main(["hub", "export", "nothing", "--group", GROUP, "--hub", hub, "--out", out]) == 1
