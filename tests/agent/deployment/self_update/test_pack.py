"""Packing the agent: what it needs on the board is fetched, and what nobody asked for is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside_agent.deployment.self_update.pack import pack
from lineside_agent.deployment.self_update.payload import running_python
from lineside_runtime.errors import StagingError
from tests.agent.deployment.self_update.wheels import write_wheel


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Stands for lineside's wheel: it needs ``plain`` with its extra ``fast``."""
    needs = ("plain[fast]>=1", "never>=1; extra == 'host'")
    return write_wheel(tmp_path / "own", "lineside", "1.0", {"lineside_own.py": b""}, requires=needs)


def source(tmp_path: Path, *names: str) -> Path:
    """Returns a folder that pip is to take wheels from, with pip's own."""
    folder = tmp_path / "wheels"
    # The extra "dev" asks for the package's own extra "lint": nobody asked for "dev".
    plain = ("quick; extra == 'fast'", "plain[lint]; extra == 'dev'", "linter; extra == 'lint'")
    write_wheel(folder, "plain", "1.2", {"plain.py": b""}, requires=plain)
    for name in ("pip", *names):
        write_wheel(folder, name, "30.0", {f"{name}_.py": b""})
    return folder


def fetched(own: Path, wheels: Path, out: Path) -> set[str]:
    pack(out, wheel=own, wheels=wheels, python=running_python())
    return {path.name.partition("-")[0] for path in (out / "wheels").iterdir()}


def test_extras_count_only_where_somebody_who_is_needed_asks_for_them(own: Path, tmp_path: Path) -> None:
    assert fetched(own, source(tmp_path, "quick"), tmp_path / "out") == {"lineside", "plain", "quick", "pip"}


def test_what_is_asked_for_and_nowhere_is_an_error_and_leaves_nothing(own: Path, tmp_path: Path) -> None:
    with pytest.raises(StagingError):
        fetched(own, source(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
