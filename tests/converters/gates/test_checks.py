"""Each gate lets a good model through and stops a bad one with its figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from lineside_converters.candidate import (
    Candidate,
    CandidateEvaluation,
    CandidateVariant,
    RejectedVariant,
    SourceModel,
)
from lineside_converters.context import Context
from lineside_converters.data.calibration_data import AnnotatedFrame, ModelInputs, feed_of
from lineside_converters.gates.checks import (
    Feed,
    Run,
    Times,
    check_accuracy,
    check_caller_metric,
    check_speed,
    max_ratio,
    time_together,
)
from lineside_converters.gates.parity import check_parity, reading_of
from lineside_converters.gates.runner import choose_timed, fastest_of_each_engine, run_gates
from lineside_converters.gates.statistics import Drop
from lineside_converters.levels import LEVELS, LevelOptions
from lineside_converters.options import LimitOptions
from lineside_converters.progress import ProgressReporter
from lineside_converters.reports.builder import shipped_figures
from lineside_converters.targets import find_target
from lineside_converters.tasks import task_of
from lineside_converters.work_folder import WorkFolder
from lineside_models.frame import Frame
from lineside_runtime.bundle import Postprocess
from lineside_runtime.errors import AccuracyGateError, ParityGateError, SpeedGateError
from lineside_runtime.tensors import Array
from tests.converters import nets


def runner(data: bytes) -> Run:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, feed), strict=True))


def feeds(count: int = 3) -> list[Feed]:
    return [{"image": tensor} for tensor in nets.noise(count)]


def scrambled(data: bytes) -> bytes:
    """The same network with every layer's weights in another order, as a bad build would have them."""
    model = nets.load(data)
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        mixed = np.random.default_rng(0).permutation(weights.ravel()).reshape(weights.shape)
        tensor.CopyFrom(numpy_helper.from_array(mixed, tensor.name))
    return model.SerializeToString()


def constant(**outputs: np.ndarray) -> Run:
    return lambda feed: outputs


# --- parity


def test_a_model_agrees_with_itself() -> None:
    run = runner(nets.convnet())
    gate = check_parity(run, run, feeds(), min_correlation=0.9999)
    assert gate.status == "passed"
    assert gate.value == pytest.approx(1.0)
    assert "cls_8" in gate.detail


def test_scrambled_weights_are_stopped_by_parity_alone_with_or_without_annotated_frames(tmp_path: Path) -> None:
    data = nets.convnet()
    with pytest.raises(ParityGateError) as caught:
        proved(tmp_path, data, scrambled(data), LEVELS[1])
    assert caught.value.code == 6002 and caught.value.action
    assert "cls_8 " in str(caught.value.actual)
    blind = dataclasses.replace(inputs(), evaluation=(), evaluation_source="")
    with pytest.raises(ParityGateError):
        proved(tmp_path, data, scrambled(data), dataclasses.replace(LAX, min_agreement_alone=0.5), inputs=blind)


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_an_output_of_the_source_that_is_not_finite_passes_beside_no_good_one(names: str) -> None:
    good = {name: np.arange(4, dtype=np.float32) for name in names}
    with pytest.raises(ParityGateError, match="output 'b' of the source model has values that are not finite"):
        check_parity(
            constant(**good | {"b": np.full(4, np.nan, np.float32)}), constant(**good), feeds(), min_correlation=0.9
        )


HEAD = Postprocess(name="dfl_anchor_free", params={"strides": [8, 16], "reg_bins": 4})


def maps(seed: int, *, low: float = -9.0) -> dict[str, np.ndarray]:
    """Maps of a detector that sees one thing at stride 8 and nothing at stride 16."""
    rng = np.random.default_rng(seed)
    outputs = {f"cls_{stride}": rng.normal(low, 0.8, (1, 3, 64 // stride, 64 // stride)) for stride in (8, 16)}
    outputs |= {f"box_{stride}": rng.normal(0, 2, (1, 16, 64 // stride, 64 // stride)) for stride in (8, 16)}
    outputs["cls_8"][0, 1, 2:4, 3:5] = 3.0
    outputs["box_8"][:, :, 2:4, 3:5] = np.random.default_rng(99).normal(0, 3, (1, 16, 2, 2))
    return {name: array.astype(np.float32) for name, array in outputs.items()}


def test_a_detector_is_compared_by_what_it_says_and_not_by_how_it_says_nothing() -> None:
    gate = check_parity(
        constant(**maps(0)), constant(**maps(1)), [{}], min_correlation=0.95, reading=reading_of(HEAD)
    )  # fmt: skip
    assert gate.value is not None and gate.value > 0.95
    assert "scores" in gate.detail and "raw outputs: cls_8" in gate.detail
    with pytest.raises(ParityGateError):  # its maps, as they are, have next to nothing in common
        check_parity(constant(**maps(0)), constant(**maps(1)), [{}], min_correlation=0.95)


def test_a_detector_that_sees_it_elsewhere_or_draws_other_boxes_or_sees_more_does_not_pass() -> None:
    seen, moved, other, blind = maps(0), maps(0), maps(0), maps(0)
    moved["cls_8"] = np.roll(moved["cls_8"], 2, axis=3)
    other["box_8"] = -other["box_8"]
    blind["cls_8"][:] = -9
    nothing = [{name: array - 20 for name, array in maps(seed).items()} for seed in (0, 1)]  # compared by their maps
    reading = reading_of(HEAD)
    check_parity(constant(**nothing[0]), constant(**nothing[0]), [{}], min_correlation=0.99, reading=reading)
    refused = [(seen, moved, "scores"), (seen, other, "distances"), (blind, seen, "scores")]
    for source, made, words in [*refused, (nothing[0], nothing[1], ".")]:
        with pytest.raises(ParityGateError, match=words):
            check_parity(constant(**source), constant(**made), [{}], min_correlation=0.5, reading=reading)


DETR = Postprocess(name="detr", params={"scores": "logits", "boxes": "boxes"})


def queries(seed: int) -> dict[str, Array]:
    """Answers of a transformer: 40 queries, of which a few see something."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-6, 0.5, (1, 40, 3))
    logits[0, rng.choice(40, 6, replace=False), rng.integers(0, 3, 6)] = rng.uniform(0, 3, 6)
    return {"logits": logits.astype(np.float32), "boxes": rng.uniform(0.1, 0.9, (1, 40, 4)).astype(np.float32)}


def test_queries_are_compared_with_their_partners_whatever_their_order() -> None:
    ours = queries(0)
    order = np.random.default_rng(1).permutation(40)
    turned = {name: array[:, order] + np.float32(1e-3) for name, array in ours.items()}
    with pytest.raises(ParityGateError):
        check_parity(constant(**ours), constant(**turned), [{}], min_correlation=0.5)
    gate = check_parity(constant(**ours), constant(**turned), [{}], min_correlation=0.999, reading=reading_of(DETR))
    assert gate.detail.count("scores") == gate.detail.count("boxes") - 1 == 1  # once more among the raw outputs


@pytest.mark.parametrize("harmed", ["logits", "boxes"])
def test_other_answers_of_queries_are_stopped(harmed: str) -> None:
    ours = queries(0)
    theirs = {**ours, harmed: queries(2)[harmed]}
    with pytest.raises(ParityGateError):
        check_parity(constant(**ours), constant(**theirs), [{}], min_correlation=0.9, reading=reading_of(DETR))


def test_low_logits_shifted_broken_and_constant_outputs_do_not_pass_for_one_another() -> None:
    rng = np.random.default_rng(0)
    low, as_low = (rng.normal(-4.6, 0.5, (1, 12, 28, 28)).astype(np.float32) for _ in range(2))
    plain = float((low * as_low).sum() / np.linalg.norm(low) / np.linalg.norm(as_low))
    assert plain > 0.98  # what a plain cosine makes of it
    wanted, ones = rng.normal(0, 1, (1, 2, 4, 4)).astype(np.float32), np.ones((1, 2, 4, 4), np.float32)
    assert check_parity(constant(y=ones), constant(y=ones), [{}], min_correlation=0.99).value == 1.0
    broken = (np.full_like(ones, np.nan), np.full_like(ones, np.inf), np.zeros((1, 2, 4, 5), np.float32))
    for source, made, least in (
        (low, {"y": as_low}, 0.5), (wanted, {"y": wanted + 2}, 0.9), (ones, {"y": 2 * ones}, 0.99),
        *((wanted, {"y": each}, -1.0) for each in broken), (wanted, {}, -1.0),
    ):  # fmt: skip
        with pytest.raises(ParityGateError):
            check_parity(constant(y=source), constant(**made), [{}], min_correlation=least)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 4), error=st.floats(0.01, 3))
def test_sums_over_frames_give_what_all_frames_at_once_give(seed: int, frames: int, error: float) -> None:
    rng = np.random.default_rng(seed)
    wanted = [rng.normal(rng.normal(0, 3, (1, 3, 1, 1)), 1, (1, 3, 5, 4 + i)).astype(np.float32) for i in range(frames)]
    found = [(w + rng.normal(0, error, w.shape)).astype(np.float32) for w in wanted]
    a, b = (np.concatenate([x[0].reshape(3, -1) for x in part], axis=1).astype(np.float64) for part in (wanted, found))
    mean = a.mean(1, keepdims=True)
    plain = ((a - mean) * (b - mean)).sum() / np.sqrt(((a - mean) ** 2).sum() * ((b - mean) ** 2).sum())
    turns = iter(range(frames)), iter(range(frames))
    gate = check_parity(
        lambda _: {"y": wanted[next(turns[0])]},
        lambda _: {"y": found[next(turns[1])]},
        [{}] * frames,
        min_correlation=-1,
    )
    assert gate.value == pytest.approx(plain, abs=1e-9)


# --- accuracy


def drop(before: float, after: float) -> Drop:
    return Drop(
        before=before, after=after, low=before - after - 0.01, high=before - after + 0.01, confidence=0.95, frames=10,
        resamples=100,
    )  # fmt: skip


def test_the_callers_own_metric_is_judged_by_its_mean() -> None:
    gate, found = check_caller_metric([1.0, 1.0, 0.5], [1.0, 1.0, 0.47], max_drop=0.02, seed=1)
    assert gate.value == pytest.approx(0.01)
    assert found.low <= found.drop <= found.high
    with pytest.raises(AccuracyGateError, match="3 samples of the caller"):
        check_caller_metric([1.0, 1.0, 0.5], [1.0, 0.0, 0.5], max_drop=0.02, seed=1)


def test_a_small_drop_or_a_gain_passes_with_its_interval_and_a_larger_one_or_none_does_not() -> None:
    for before, after in ((0.74, 0.72001), (0.74, 0.74), (0.70, 0.75)):
        gate = check_accuracy(drop(before, after), metric="mAP@0.5", max_drop=0.02, where="10 frames")
        assert gate.value == pytest.approx(before - after)
    assert "mAP@0.5 0.7000 → 0.7500" in gate.detail and "10 frames" in gate.detail
    assert "95% interval of the drop -0.0600 to -0.0400" in gate.detail
    for before, after in ((0.74, 0.7199), (float("nan"), 0.7), (0.7, float("nan"))):
        with pytest.raises(AccuracyGateError, match="10 frames") as caught:
            check_accuracy(drop(before, after), metric="mAP@0.5", max_drop=0.02, where="10 frames")
        assert caught.value.code == 6003


# --- speed


def test_the_faster_of_two_models_passes_and_the_slower_does_not() -> None:
    shallow, deep = (runner(nets.convnet(depth=depth)) for depth in (2, 40))
    times = time_together({"deep": deep, "shallow": shallow}, feeds(2), rounds=7)
    gate = check_speed(times["deep"], times["shallow"], max_slowdown=1.0, where="this CPU")
    assert gate.value is not None
    assert gate.value < 0.6
    with pytest.raises(SpeedGateError, match="this CPU") as caught:
        check_speed(times["shallow"], times["deep"], max_slowdown=1.0, where="this CPU")
    assert caught.value.code == 6004
    assert "ms a frame" in str(caught.value.actual)


def test_a_slower_model_is_told_by_the_ratio_of_paired_calls_and_the_means_are_called_so() -> None:
    small, large = np.full(40, 1.0), np.full(40, 20.0)  # the large frame weighs most in a mean
    reference = Times(np.stack([small, large], 1))
    candidate = Times(np.stack([small * 1.0, large * 1.4], 1))
    with pytest.raises(SpeedGateError) as caught:
        check_speed(reference, candidate, max_slowdown=1.0, where="a CPU")
    assert caught.value.actual == (
        "1.183 times the time in paired calls of each frame (means, not paired: 10.50 → 14.50 ms a frame on a CPU)"
    )


def test_a_gain_below_the_least_is_refused_where_it_costs_accuracy() -> None:
    reference, candidate = Times(np.full((20, 2), 10.0)), Times(np.full((20, 2), 9.5))  # 1.05 times as fast
    worse, same = drop(0.51, 0.50), drop(0.51, 0.51)
    assert max_ratio(LEVELS[1], 1.1, same) == 1.0
    assert check_speed(reference, candidate, max_slowdown=1.0, where="a CPU", drop=same).status == "passed"
    for cost, words in ((worse, "accuracy drops by 0.0100"), (None, "accuracy was not compared")):
        limit = max_ratio(LEVELS[1], 1.1, cost)
        with pytest.raises(SpeedGateError, match=f"only 1.05 times as fast.*{words}") as caught:
            check_speed(reference, candidate, max_slowdown=limit, where="a CPU", drop=cost)
        assert "--min-speedup 1" in caught.value.action
        no_gain = max_ratio(LEVELS[1], 1.0, cost)
        assert check_speed(reference, candidate, max_slowdown=no_gain, where="a CPU").status == "passed"
    assert max_ratio(LEVELS[0], 1.1, None) == LEVELS[0].max_slowdown  # a float form costs nothing


def test_both_models_are_timed_on_every_frame_in_every_round() -> None:
    calls: list[str] = []

    def note(name: str) -> Run:
        def run(feed: Feed) -> dict[str, Array]:
            calls.append(name + str(feed["n"]))
            return {}

        return run

    times = time_together({"a": note("a"), "b": note("b")}, [{"n": np.array(0)}, {"n": np.array(1)}], rounds=4, calls=2)
    assert times["a"].samples_ms.shape == times["b"].samples_ms.shape == (8, 2)
    assert (times["a"].samples_ms > 0).all()
    assert sorted(set(calls)) == ["a0", "a1", "b0", "b1"]
    assert calls[:6] == ["b0", "b0", "b0", "a0", "a0", "a0"]  # the first of a turn isn't timed
    assert calls[12:18] == ["a0", "a0", "a0", "b0", "b0", "b0"]  # who goes first changes


def test_small_and_large_frames_are_both_timed() -> None:
    tensors = [*nets.noise(9), *nets.noise(5, side=160)]
    chosen = choose_timed([{"image": tensor} for tensor in tensors])
    assert [feed["image"].shape[-1] for feed in chosen] == [96, 96, 160, 160]


# --- all of them on two bundles


def inputs(count: int = 12) -> ModelInputs:
    judged = []
    for number in range(count):
        image, truths = nets.cells_picture(number)
        boxes = np.array([box for _, box in truths], np.float32)
        judged.append(AnnotatedFrame(Frame(image=image), boxes, np.array([label for label, _ in truths], np.int64)))
    return ModelInputs(
        calibration=tuple(feed_of(true.frame, nets.manifest()) for true in judged),
        calibration_source="cells",
        tuning=(),
        evaluation=tuple(judged),
        evaluation_source=f"{count} pictures of cells",
        simulated_truth=False,
    )


LAX = dataclasses.replace(
    LEVELS[1],
    min_correlation=-1.0,
    min_correlation_alone=-1.0,
    min_agreement=-1.0,
    min_agreement_alone=-1.0,
    max_slowdown=1e9,
)


def proved(folder: Path, one: bytes, two: bytes, level: LevelOptions, **options: Any) -> CandidateEvaluation:
    source, made = folder / "source.onnx", folder / "made.onnx"
    source.write_bytes(one)
    made.write_bytes(two)
    manifest = nets.manifest()
    arguments: dict[str, Any] = {"inputs": inputs(), "target": find_target("cpu"), **options}
    limits = {name: arguments.pop(name) for name in ("max_drop", "metric") if name in arguments}
    context = Context(
        source=SourceModel.of(source, manifest), manifest=manifest, level=level, task=task_of(manifest),
        work=WorkFolder(folder, lambda text: None), progress=ProgressReporter(lambda text: None),
        limits=LimitOptions(**limits), **arguments,
    )  # fmt: skip
    variant = CandidateVariant(variant=manifest.variants[0], engine="ort", file=made)
    return run_gates(Candidate(model=source, variants=(variant,)), context)


def test_a_detector_beside_itself_passes_with_figures_of_the_same_frames(tmp_path: Path) -> None:
    proof = proved(tmp_path, nets.cell_detector(), nets.cell_detector(), LAX)
    (candidate,) = proof.accepted
    assert [gate.name for gate in candidate.gates] == ["parity", "accuracy", "speed"]
    assert proof.reference.map50 == candidate.figures.map50
    assert candidate.drop is not None and candidate.drop.low == candidate.drop.high == 0
    assert proof.reference.map50 is not None and 0.3 < proof.reference.map50 < 1.0
    assert proof.reference.size_bytes == len(nets.cell_detector())
    assert 0 < proof.reference.latency_ms <= proof.reference.latency_p95_ms * 2
    for change, words in ((-0.1585, "accuracy rises by 0.1585"), (0.01, "accuracy drops by 0.0100")):
        assert words in shipped_figures(dataclasses.replace(candidate, drop=drop(0.5 + change, 0.5))).why
    slow, fast = (
        dataclasses.replace(
            candidate, figures=msgspec.structs.replace(candidate.figures, latency_ms=ms, latency_p95_ms=ms)
        )
        for ms in (9.0, 3.0)
    )
    other = dataclasses.replace(candidate, candidate=dataclasses.replace(candidate.candidate, engine="openvino"))
    kept, left_out = fastest_of_each_engine([slow, fast, other])
    assert {each.candidate.engine for each in kept} == {"ort", "openvino"} and fast in kept
    assert [type(each) for each in left_out] == [RejectedVariant]
    assert "3.00 ms" in left_out[0].why and "9.00 ms" in left_out[0].why


def test_a_detector_that_finds_less_is_stopped_by_accuracy(tmp_path: Path) -> None:
    with pytest.raises(AccuracyGateError, match="12 pictures of cells"):
        proved(tmp_path, nets.cell_detector(), nets.cell_detector(bar=380.0), LAX)


def test_a_detector_whose_scores_have_moved_below_the_thresholds_is_stopped_though_its_map_is_the_same(
    tmp_path: Path,
) -> None:
    shifted = nets.cell_detector(bar=230.0)
    with pytest.raises(AccuracyGateError, match="moved away from the thresholds"):
        proved(tmp_path, nets.cell_detector(), shifted, LAX, inputs=inputs(24))
    (one,) = proved(tmp_path, nets.cell_detector(), shifted, LAX, inputs=inputs(24), max_drop=0.5).accepted
    assert one.drop is not None and one.drop.drop == 0
    assert "F1 at the thresholds 0.7303 → 0.5984" in next(gate.detail for gate in one.gates if gate.name == "accuracy")


def test_a_model_made_slower_on_purpose_is_stopped_by_speed(tmp_path: Path) -> None:
    recipe = dataclasses.replace(LAX, max_slowdown=1.0)
    with pytest.raises(SpeedGateError):
        proved(tmp_path, nets.convnet(depth=1), nets.convnet(depth=40), recipe, max_drop=1.0)


def test_a_target_that_is_not_here_is_marked_unproven(tmp_path: Path) -> None:
    recipe = dataclasses.replace(LAX, max_slowdown=0.0)  # nothing could pass that
    proof = proved(tmp_path, nets.cell_detector(), nets.cell_detector(), recipe, target=find_target("npu"))
    gate = proof.accepted[0].gates[-1]
    assert (gate.status, gate.value) == ("unproven", None)
    assert "speed unproven" in gate.detail and "npu" in gate.detail


def test_a_worse_metric_of_the_callers_is_stopped(tmp_path: Path) -> None:
    scores = iter([[1.0, 1.0], [1.0, 0.5]])
    with pytest.raises(AccuracyGateError, match="caller"):
        proved(tmp_path, nets.cell_detector(), nets.cell_detector(), LAX, metric=lambda run: next(scores))


def test_outputs_whose_length_changes_are_compared_whole() -> None:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(1, length, 4)).astype(np.float32)} for length in (3, 7, 7, 2)]

    def reference(feed: Feed) -> dict[str, np.ndarray]:
        return {"y": feed["x"] * 2 + 5}

    def noisy(feed: Feed) -> dict[str, np.ndarray]:
        return {"y": feed["x"] * 2 + 5 + np.sin(97 * feed["x"]) * 0.4}

    gate = check_parity(reference, noisy, feeds, min_correlation=0.9)
    wanted, found = (np.concatenate([run(feed)["y"].ravel() for feed in feeds]) for run in (reference, noisy))
    a, b = wanted - wanted.mean(), found - wanted.mean()
    assert gate.value == pytest.approx(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), abs=1e-6)
