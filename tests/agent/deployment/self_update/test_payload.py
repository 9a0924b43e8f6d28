"""Payloads: packed for another board from a folder of wheels, and refused where something is wrong with them."""

from __future__ import annotations

import json
import platform
import shutil
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lineside.cli import main
from lineside_agent.deployment.self_update.environment import make_environment
from lineside_agent.deployment.self_update.guard import Installation
from lineside_agent.deployment.self_update.pack import pack
from lineside_agent.deployment.self_update.payload import MANIFEST_NAME, open_payload, parse_agent_manifest
from lineside_agent.deployment.self_update.slots import AgentSlots
from lineside_hub.repository.repository import Repository
from lineside_hub.rollouts.push import push_agent
from lineside_models import zoo
from lineside_runtime.errors import (
    BundleFormatError,
    BundleIntegrityError,
    IncompatibleBundleError,
    InputError,
    InputNotFoundError,
    LinesideError,
    StagingError,
)
from tests.agent.deployment.self_update.wheels import (
    BASE_PYTHON,
    bundle_files,
    make_payload,
    pip_wheel,
    program_wheel,
    tree_wheel,
    write_wheel,
)


def require(wheel: Path, *lines: str) -> Path:
    """Adds requirements to a wheel."""
    (name,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    files = {}
    with zipfile.ZipFile(wheel) as archive:
        files = {known: archive.read(known) for known in archive.namelist()}
    files[name] += "".join(f"Requires-Dist: {line}\n" for line in lines).encode()
    with zipfile.ZipFile(wheel, "w") as archive:
        for known, data in files.items():
            archive.writestr(known, data)
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an index would have."""
    folder = tmp_path_factory.mktemp("wheels")
    require(write_wheel(folder, "direct", "1.5", {"direct.py": b""}), 'deep; python_version < "3.11"')
    write_wheel(folder, "deep", "2.0", {"deep.py": b""})
    write_wheel(folder, "unneeded", "2.0", {"unneeded.py": b""})
    shutil.copy2(pip_wheel(), folder)
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wheel = program_wheel(tmp_path_factory.mktemp("own"), "1.0", "print('on')")
    return require(wheel, "direct>=1,<2", 'only-there; platform_machine == "riscv64"')


@pytest.mark.parametrize(("python", "deep"), [("3.10", True), ("3.13", False)])
def test_pack_gathers_what_that_boards_python_needs(
    tmp_path: Path, own: Path, wheels: Path, python: str, deep: bool
) -> None:
    payload = pack(tmp_path / "p", wheel=own, wheels=wheels, python=python, architecture="aarch64")
    names = {Path(name).name.split("-")[0] for name in payload.manifest.files}
    assert names == {"lineside", "direct", "pip"} | ({"deep"} if deep else set())
    assert payload.manifest.tag == f"cp{python.replace('.', '')}-aarch64"
    with pytest.raises(IncompatibleBundleError, match="another board"):
        payload.check_fits(architecture="armv7l")


def test_a_payload_holds_the_bundles_of_a_device_and_not_those_of_a_host(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    shutil.copy2(pip_wheel(), tmp_path / "wheels")
    wheel = tree_wheel(tmp_path / "w", "1.0", {**bundle_files("surface-12-float"), **bundle_files("surface-starter")})
    payload = pack(tmp_path / "p", wheel=wheel, wheels=tmp_path / "wheels", architecture=platform.machine())
    zoo_folder = "lineside_models/zoo/"
    with zipfile.ZipFile(payload.path / payload.manifest.wheel_of("lineside")) as packed, zipfile.ZipFile(wheel) as own:
        names, record = packed.namelist(), packed.read("lineside-1.0.dist-info/RECORD").decode()
        assert {name for name in own.namelist() if "/surface-12-float/" not in name} == set(names)
        assert "surface-12-float" not in record and f"{zoo_folder}surface-starter/manifest.json" in record
        for name in bundle_files("surface-starter"):
            assert packed.read(name) == own.read(name)


def test_a_bundle_of_the_host_is_named_where_a_device_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(zoo.NAMES) - set(zoo.HOST_ONLY):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(zoo, "_FOLDER", tmp_path)
    assert zoo.path("surface-12") == tmp_path / "surface-12"
    with pytest.raises(InputNotFoundError, match="'surface-12-float' on a device"):
        zoo.path("surface-12-float")


def test_pack_says_what_is_missing_and_leaves_nothing(tmp_path: Path, wheels: Path) -> None:
    wheel = require(program_wheel(tmp_path / "w", "1.0", ""), "nowhere-to-be-had")
    with pytest.raises(StagingError, match="nowhere-to-be-had"):
        pack(tmp_path / "out" / "p", wheel=wheel, wheels=wheels)
    assert list((tmp_path / "out").iterdir()) == []


def test_pack_overwrites_nothing_and_checks_what_it_is_given_before_pip_runs(tmp_path: Path, own: Path) -> None:
    (tmp_path / "mine").write_text("no wheel")
    with pytest.raises(InputError, match="not empty"):
        pack(tmp_path, wheel=own)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"wheel": tmp_path / "mine"}, "mine is no wheel"),
        ({"wheel": own, "extras": ["codez"]}, "no extra codez"),
        ({"wheel": own, "python": "2.7"}, "a version such as 3.13"),
        ({"wheel": own, "wheels": tmp_path / "mistyped"}, "no folder of wheels"),
    ]
    for settings, text in wrong:
        with pytest.raises(InputError, match=text):
            pack(tmp_path / "out" / "p", **settings)
    with pytest.raises(InputNotFoundError, match=r"agent\.json: No such file"):
        open_payload(tmp_path)


def test_damaged_wheel_is_found(tmp_path: Path, own: Path) -> None:
    payload = make_payload(tmp_path / "p", own)
    path = payload.path / payload.manifest.wheel_of("lineside")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleIntegrityError):
        open_payload(payload.path)
    with pytest.raises(StagingError, match=r"(?i)hash"):  # and by pip itself, should it change after that
        make_environment(payload, tmp_path / "venv", python=BASE_PYTHON)
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"python": "2.7"},
        {"python": "3.1/../../x"},
        {"files": {}},
        {"files": {"wheels/../../etc/passwd": None}},
        {"files": {"/etc/passwd": None}},
        {"files": {"wheels/run.sh": None}},
        {"version": 3},
    ],
)
def test_manifest_that_breaks_the_format_is_refused(tmp_path: Path, own: Path, changes: dict[str, object]) -> None:
    payload = make_payload(tmp_path / "p", own)
    content = json.loads((payload.path / MANIFEST_NAME).read_bytes())
    entry = next(iter(content["files"].values()))
    if isinstance(changes.get("files"), dict):
        changes = {"files": {**content["files"], **dict.fromkeys(changes["files"], entry)} if changes["files"] else {}}  # type: ignore[call-overload]  # JSON of any shape
    with pytest.raises(BundleFormatError):
        parse_agent_manifest(json.dumps({**content, **changes}).encode())


def test_manifest_of_a_newer_host_is_read(tmp_path: Path, own: Path) -> None:
    payload = make_payload(tmp_path / "p", own)
    content = {**json.loads((payload.path / MANIFEST_NAME).read_bytes()), "mood": "hopeful"}
    assert parse_agent_manifest(json.dumps(content).encode()) == payload.manifest


def test_wheel_that_the_running_slot_has_is_copied_and_not_fetched(tmp_path: Path, own: Path) -> None:
    old = make_payload(tmp_path / "old", own)
    new = make_payload(tmp_path / "new", program_wheel(tmp_path / "w", "2.0", ""))
    slots = AgentSlots(Installation(tmp_path / "home"), "a")
    shutil.copytree(old.path, slots.payload_path("a"))
    target = slots.begin("b", new.digest)
    slots.seed("b", new.manifest)
    assert [path.name for path in sorted(target.rglob("*.whl"))] == [pip_wheel().name]


def test_push_signs_a_payload_and_the_wish_carries_the_bundle_on(
    tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    payload = make_payload(tmp_path / "p", own)
    Repository.create(tmp_path / "hub", groups=["line"])
    arguments = ["push", "--agent", str(payload.path), "--hub", str(tmp_path / "hub"), "--group", "line", "--json"]
    assert main(arguments) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ref"]["sha256"] == payload.digest
    assert said["ref"]["target"] == f"line/agent-1.0-{payload.manifest.tag}.agent.json"
    assert push_agent(tmp_path / "hub", payload.path, group="line").ref.sha256 == payload.digest  # again: no new target
    other = program_wheel(tmp_path / "w", "1.0", "print('another content')")
    with pytest.raises(LinesideError, match="another content"):
        push_agent(tmp_path / "hub", make_payload(tmp_path / "q", other).path, group="line")


def test_manifest_is_the_same_for_the_same_wheels(tmp_path: Path, own: Path) -> None:
    one, two = make_payload(tmp_path / "1", own), make_payload(tmp_path / "2", own)
    assert msgspec.json.encode(one.manifest) == msgspec.json.encode(two.manifest)
