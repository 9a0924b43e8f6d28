"""Runs all node tests on all engines and writes the table."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from lineside_runtime.files import write_atomic
from tests.conformance.onnx_node.backend import ENGINES
from tests.conformance.onnx_node.suite import Case, reason, run

TABLE = Path(__file__).parents[3] / "docs" / "figures" / "onnx-node-tests.md"
PACKAGES = {"ort": "onnxruntime", "openvino": "openvino"}

HEAD = """# onnx's node tests

What `lineside`'s session passes of the node tests that the `onnx` package brings (`onnx.backend.test`, every case, its
own tolerances), beside what the bare engine passes on the same inputs. Written by
`python -m tests.conformance.onnx_node`. `tests/conformance/test_onnx_node.py` fails if one case that a bare engine
passes is lost, with a case of each kind of inputs and outputs; `tests/system/test_onnx_node.py` runs all.

onnx {onnx}, Python {python}
"""


def main() -> int:
    """Writes the table; returns 1 if a case is lost."""
    parts = [HEAD.format(onnx=version("onnx"), python=".".join(map(str, sys.version_info[:2])))]
    lost = 0
    for engine in ENGINES:
        print(f"{engine} ...", file=sys.stderr, flush=True)
        cases = run(engine, every=True)
        lost += sum(case.lost for case in cases)
        parts.append(section(engine, cases))
    write_atomic(TABLE, "\n".join(parts).encode())
    print(TABLE)
    return int(lost > 0)


def section(engine: str, cases: list[Case]) -> str:
    """Returns the part of the table for one engine."""
    passed = sum(case.ours == "pass" for case in cases)
    lines = [
        f"## {engine} ({PACKAGES[engine]} {version(PACKAGES[engine])})",
        "",
        "| cases | the session passes | the bare engine passes | lost | gained |",
        "| ---: | ---: | ---: | ---: | ---: |",
        f"| {len(cases)} | {passed} | {sum(case.bare == 'pass' for case in cases)} "
        f"| {sum(case.lost for case in cases)} | {sum(case.gained for case in cases)} |",
        "",
        "What does not pass, and why:",
        "",
        "| why | cases | which |",
        "| --- | ---: | --- |",
    ]
    by_reason: dict[str, list[str]] = {}
    for case in cases:
        if case.ours != "pass":
            by_reason.setdefault(reason(case.ours).replace("|", "/"), []).append(case.name.removeprefix("test_"))
    for why, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        lines.append(f"| {why} | {len(names)} | {', '.join(names)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    raise SystemExit(main())
