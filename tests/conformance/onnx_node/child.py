"""Runs the cases from a number on, in one process: an engine may crash, and then the parent starts another.

One JSON line a step on stdout: ``[index, name, "bare" | "ours", result]``; a line with the result ``"start"`` stands
before each, so that a crash has a name.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import onnx
from onnx.backend.test.runner import Runner

from tests.conformance.onnx_node.backend import BARE, OURS, plain

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # onnx's cases overflow on purpose
    from onnx.backend.test.loader import load_model_tests

TEXT_MAX = 300


def main(engine: str, first: int) -> None:
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    print(json.dumps(["count", len(cases)]), flush=True)
    for index, case in enumerate(cases):
        for step, way in enumerate((BARE[engine], ours(engine))):
            if 2 * index + step >= first:
                name = ("bare", "ours")[step]
                print(json.dumps([2 * index + step, case.name, name, "start"]), flush=True)
                print(json.dumps([2 * index + step, case.name, name, outcome(case, way)]), flush=True)


Run = Callable[[Sequence[Any]], Sequence[Any]]
Prepare = Callable[[onnx.ModelProto], Run]


def ours(engine: str) -> Prepare:
    def prepare(model: onnx.ModelProto) -> Run:
        rep = OURS[engine].prepare(model)

        def run(inputs: Sequence[Any]) -> Sequence[Any]:
            try:
                return rep.run(inputs)
            finally:
                rep.close()

        return run

    return prepare


def outcome(case: Any, prepare: Prepare) -> str:
    try:
        for inputs, expected in case.data_sets:
            got = prepare(case.model)([plain(one) for one in inputs])
            Runner.assert_similar_outputs([plain(one) for one in expected], list(got), rtol=case.rtol, atol=case.atol)
    except Exception as error:  # noqa: BLE001  whatever an engine raises is the result
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:TEXT_MAX]
    return "pass"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
