"""Runs the cases from a number on, in one process: an engine may crash, and then the parent starts another.

One JSON line a step on stdout: ``[index, name, "ours" | "bare", result]``; a line with the result ``"start"`` stands
before each, so that a crash has a name. Our session is first. The bare engine's result is ``"not run"`` where ours
passes, unless ``every`` is asked for; ``few`` takes a case of `FEW` for each set of kinds of inputs and outputs.
``cases=FILE`` keeps the chosen cases in a file for the next child: onnx computes all of them anew in five seconds.
"""

from __future__ import annotations

import importlib
import json
import logging
import pickle
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx.backend.test.runner import Runner

from tests.conformance.onnx_node.backend import BARE, OURS, plain

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # onnx's cases overflow on purpose
    from onnx.backend.test.case import node
    from onnx.backend.test.loader import load_model_tests

TEXT_MAX = 300
NOT_RUN = "not run"
FEW = (
    *("bitshift", "clip", "compress", "constantofshape", "convinteger", "dequantizelinear", "dropout", "expand", "if_"),
    *(
        "dynamicquantizelinear",
        "greater",
        "identity",
        "isnan",
        "loop",
        "lstm",
        "matmul",
        "nonmaxsuppression",
        "nonzero",
    ),
    *(
        "onehot",
        "optionalgetelement",
        "optionalhaselement",
        "pad",
        "qlinearmatmul",
        "quantizelinear",
        "rangeop",
        "scan",
    ),
    *("sequence_map", "sequenceinsert", "shape", "splittosequence", "string_concat", "string_split", "topk", "unique"),
    *("stringnormalizer", "where"),
)
"""Modules of onnx's cases that have every kind of value: all types of numbers, text, sequences, optional values."""


def main(engine: str, first: int, *, every: bool, few: bool, kept: Path | None) -> None:
    logging.disable(logging.CRITICAL)
    cases = _cases(kept, few=few)
    print(json.dumps(["count", len(cases)]), flush=True)
    for index, case in enumerate(cases):
        passed = False
        for step, name, prepare in ((2 * index, "ours", ours(engine)), (2 * index + 1, "bare", BARE[engine])):
            if step < first:
                continue
            if name == "bare" and passed and not every:
                print(json.dumps([step, case.name, name, NOT_RUN]), flush=True)
                continue
            print(json.dumps([step, case.name, name, "start"]), flush=True)
            result = outcome(case, prepare)
            print(json.dumps([step, case.name, name, result]), flush=True)
            passed = result == "pass"


def _cases(kept: Path | None, *, few: bool) -> list[Any]:
    """Returns the cases to run: those of the file if it is there."""
    if kept is not None and kept.exists():
        return list(pickle.loads(kept.read_bytes()))  # noqa: S301  written below
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if few:
            for name in FEW:
                importlib.import_module(f"{node.__name__}.{name}")
            cases = list({_kinds(case): case for case in reversed(node._NodeTestCases)}.values())[::-1]
        else:
            cases = list(load_model_tests(kind="node"))
    if kept is not None:
        kept.write_bytes(pickle.dumps(cases))
    return cases


def _kinds(case: Any) -> tuple[frozenset[Any], ...]:
    graph = case.model.graph
    return tuple(frozenset(map(_kind, values)) for values in (graph.input, graph.output))


def _kind(value: onnx.ValueInfoProto) -> tuple[str, int, bool]:
    tensor = value.type.tensor_type
    return str(value.type.WhichOneof("value")), tensor.elem_type, not tensor.shape.dim


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
    words = sys.argv[3:]
    file = next((Path(word.partition("=")[2]) for word in words if word.startswith("cases=")), None)
    main(sys.argv[1], int(sys.argv[2]), every="every" in words, few="few" in words, kept=file)
