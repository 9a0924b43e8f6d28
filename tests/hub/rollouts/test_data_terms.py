"""What a hub does with a bundle whose training data have no licence or are for research only."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from lineside_hub.repository.repository import Repository
from lineside_hub.rollouts.push import push
from lineside_runtime.bundle import Bundle, write_manifest
from lineside_runtime.errors import RolloutError

HUB = 'folder = "."\ndata_terms = "{policy}"\n\n[link]\nurl = "mqtt://127.0.0.1"\nsite = "plant"\n'


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    Repository.create(tmp_path / "hub", groups=["line"])
    return tmp_path / "hub"


def stated(bundle: Bundle, terms: dict[str, str]) -> Path:
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, licence="Apache-2.0", data_terms=terms))
    return bundle.path


def test_restricted_data_are_warned_of_where_the_hub_says_nothing(
    hub: Path, make_bundle: Callable[..., Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    path = stated(make_bundle("1"), {"parts": "CC-BY-4.0", "NEU-DET": "none", "DeepPCB": "research"})
    with caplog.at_level(logging.WARNING, "lineside.hub"):
        push(hub, path, group="line")
    assert "NEU-DET (none), DeepPCB (research)" in caplog.text
    assert "parts" not in caplog.text


@pytest.mark.parametrize(
    ("terms", "accepted"), [({"parts": "CC-BY-4.0"}, True), ({"parts": "none"}, False), ({}, False)]
)
def test_a_hub_can_refuse_what_has_no_licence(
    hub: Path, make_bundle: Callable[..., Bundle], terms: dict[str, str], accepted: bool
) -> None:
    (hub / "hub.toml").write_text(HUB.format(policy="refuse"))
    bundle = make_bundle("1")
    path = stated(bundle, terms) if terms else bundle.path
    if accepted:
        push(hub, path, group="line")
        return
    with pytest.raises(RolloutError) as caught:
        push(hub, path, group="line")
    assert "data_terms" in str(caught.value.action) + str(caught.value.actual) + str(caught.value.expected)
    (hub / "hub.toml").write_text(HUB.format(policy="accept"))
    push(hub, path, group="line")
