"""No case of onnx's node tests fails in our session that the bare engine passes: one for each kind of values.

`tests/system/test_onnx_node.py` runs all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.onnx_node.suite import run

LEAST = {"ort": 55, "openvino": 50}
"""A suite that suddenly has no cases would pass as well."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx") / "cases"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", LEAST)
def test_no_case_is_lost(engine: str, kept: Path) -> None:
    cases = run(engine, few=True, kept=kept)
    assert [(case.name, case.ours) for case in cases if case.lost] == []
    assert sum(case.ours == "pass" for case in cases) >= LEAST[engine]
