"""Not one of onnx's node tests fails in our session that bare OpenVINO passes: all of them, each compiled anew."""

from __future__ import annotations

from tests.conformance.onnx_node.suite import run


def test_no_case_is_lost() -> None:
    cases = run("openvino")
    assert [(case.name, case.ours) for case in cases if case.lost] == []
    assert sum(case.ours == "pass" for case in cases) >= 1200
