"""The shipped detector's results, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lineside_hub.config import HubConfig, load_config
from lineside_link.messages import ResultRow
from tests.hub.relabel.detector_results import inspected, make_hub


@pytest.fixture(scope="session")
def judged() -> tuple[list[ResultRow], list[bytes]]:
    return inspected()


@pytest.fixture(scope="session")
def made_hub(tmp_path_factory: pytest.TempPathFactory, judged: tuple[list[ResultRow], list[bytes]]) -> Path:
    return Path(make_hub(tmp_path_factory.mktemp("made") / "hub", *judged).folder)


@pytest.fixture
def hub(tmp_path: Path, made_hub: Path) -> HubConfig:
    shutil.copytree(made_hub, tmp_path / "hub")
    return load_config(tmp_path / "hub" / "hub.toml")
