"""``lineside agent check`` looks at what would hold: agent.toml with the hub's configuration over it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lineside.cli import main
from lineside_agent.deployment.machine import ConfigurationMachine
from lineside_agent.deployment.preflight import WITH_PROBLEMS, check
from lineside_link.messages import ConfigRef
from lineside_runtime.errors import ConfigError, InputNotFoundError
from tests.worlds.agent import write_agent
from tests.worlds.bundles import make_bundle


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    bundle = make_bundle(tmp_path / "b")
    return write_agent(tmp_path, bundle=str(bundle.path), camera={"type": "simulator"})


def set_by_hub(toml: Path, content: bytes | None) -> None:
    folder = toml.parent / "state" / "configuration"
    folder.mkdir(parents=True)
    digest = hashlib.sha256(content or b"").hexdigest()
    state = ConfigurationMachine(installed=ConfigRef(target="line/config.toml", sha256=digest))
    (folder / "state.json").write_bytes(msgspec.json.encode(state))
    if content is not None:
        (folder / f"{digest}.toml").write_bytes(content)


def test_without_one_agent_toml_alone_counts(toml: Path) -> None:
    assert check(toml).bundle == "bright-spots@1.0.0"


def test_the_hubs_configuration_is_read_too_and_left_as_it_is(toml: Path) -> None:
    set_by_hub(toml, b"[inspect]\nthreads = 1\n[store]\nkeep_images = 'all'\n")
    before = {path: path.read_bytes() for path in (toml.parent / "state").rglob("*") if path.is_file()}
    assert check(toml).bundle == "bright-spots@1.0.0"
    assert {path: path.read_bytes() for path in (toml.parent / "state").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[inspect]\nof_a_newer_agent = 1\n", r"\$\.inspect\.of_a_newer_agent"),
        (b"[inspect]\nthreads = 0\n", r"\$\.inspect\.threads"),
        (None, "is gone"),
    ],
)
def test_an_agent_that_cannot_follow_it_does_not_take_over(toml: Path, content: bytes | None, said: str) -> None:
    set_by_hub(toml, content)
    with pytest.raises(ConfigError, match=said):
        check(toml)


def test_a_damaged_note_of_what_is_followed_is_said(toml: Path) -> None:
    set_by_hub(toml, b"")
    (toml.parent / "state" / "configuration" / "state.json").write_bytes(b"{")
    with pytest.raises(ConfigError, match="can't be read"):
        check(toml)


def test_recipes_that_cannot_run_are_told_and_no_reason_against_an_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "b")
    recipes: list[dict[str, Any]] = [
        {"name": "whole", "bundle": str(bundle.path), "inspect": {"thresholds": {"bright": 0.4}}},
        {"name": "gone", "bundle": "nowhere"},
        {"name": "shipped", "bundle": "patch-features"},
        {"name": "typo", "inspect": {"thresholds": {"brigth": 0.4}}},
        {"name": "fast", "inspect": {"variant": "nowhere"}},
    ]
    toml = write_agent(tmp_path, bundle=str(bundle.path), camera={"type": "simulator"}, recipe=recipes)
    assert main(["agent", "check", "--config", str(toml)]) == WITH_PROBLEMS
    said = capsys.readouterr()
    assert "can run bright-spots@1.0.0" in said.out
    gone, typo, fast = said.err.splitlines()
    assert gone.startswith(f"! recipe gone: the bundle {tmp_path / 'nowhere'} is not there")
    assert typo.startswith("! recipe typo: $.recipe[typo].inspect.thresholds: the bundle has no type 'brigth'")
    assert fast.startswith("! recipe fast: $.recipe[fast].inspect.variant: bright-spots@1.0.0 has no 'nowhere'")
    found = check(toml)
    assert (found.bundle, len(found.problems)) == ("bright-spots@1.0.0", 3)


def test_a_bundle_that_is_not_there_is_named_with_those_that_are_shipped(tmp_path: Path) -> None:
    toml = write_agent(tmp_path, bundle="surface-13", camera={"type": "simulator"})
    with pytest.raises(InputNotFoundError, match=r"surface-13 is not there; those that are shipped are surface-12,"):
        check(toml)
