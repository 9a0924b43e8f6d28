"""Work that runs as tasks of a real Ray gives what the plain loop gives."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("torch_pruning", reason="the train extra is not installed")
pytest.importorskip("ray", reason="the ray extra is not installed")

from lineside.cli import main
from lineside_converters.cluster.tasks import ALONE, TaskCluster, TaskRunner, open_tasks
from lineside_converters.evaluation import EvaluationRequest, judge
from lineside_converters.progress import ProgressReporter
from lineside_converters.quantization.search import QuantizationSearch
from lineside_converters.search.pipeline import CUT
from lineside_converters.search.progressive import PREDICTED, progressive_context
from lineside_converters.search.study import search
from lineside_converters.thresholds import ErrorCosts, FrameRequest, decide
from lineside_converters.training.cross_validation import cross_validate
from lineside_converters.training.distributed import driver
from lineside_converters.training.segmentation.config import SegmenterConfig
from lineside_models import zoo
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import ClusterError, DatasetError, TrainingError
from tests.converters.cluster.task_functions import die_at, invert, predict_and_die_once, square, wait_until_there
from tests.converters.quantization.test_search import context
from tests.converters.search_context import search_context
from tests.worlds.annotated_sets import write_masks, write_strips

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@pytest.fixture(scope="module")
def tasks() -> Iterator[TaskRunner]:
    with open_tasks(TaskCluster(workers=2, max_failures=1)) as found:
        yield found


def test_results_are_in_order_and_all_are_told(tasks: TaskRunner) -> None:
    told: dict[int, int] = {}
    numbers = list(range(20))
    assert tasks.map(square, numbers, on_done=told.__setitem__) == ALONE.map(square, numbers)
    assert told == {number: number * number for number in numbers}
    assert tasks.map(square, []) == []
    divided = [number for part in tasks.parts(20) for number in part]
    assert divided == numbers and len(tasks.parts(20)) == 6 and len(tasks.parts(1)) == 1 and tasks.parts(0) == []
    assert ALONE.parts(20) == [range(20)]


@pytest.mark.parametrize("alone", [True, False])
def test_an_error_is_the_same_from_a_task_and_from_the_loop(tasks: TaskRunner, alone: bool) -> None:
    runner = ALONE if alone else tasks
    with pytest.raises(DatasetError) as caught:
        runner.map(square, [1, -1, 2])
    assert (caught.value.message, caught.value.expected, str(caught.value.actual)) == (
        "a negative number",
        "0 or more",
        "-1",
    )
    with pytest.raises(ZeroDivisionError):
        runner.map(invert, [1, 0])


def test_a_task_that_dies_runs_again_and_one_that_dies_again_is_an_error(tasks: TaskRunner, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    assert tasks.map(partial(die_at, tmp_path / "one", 1), range(4)) == [0, 1, 2, 3]
    assert len(list((tmp_path / "one").iterdir())) == 1
    with pytest.raises(ClusterError, match="--max-failures"):
        tasks.map(partial(die_at, tmp_path / "many", 9), range(4))
    assert len(list((tmp_path / "many").iterdir())) == 2


def test_an_evaluation_gives_the_same_figures(
    tasks: TaskRunner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, bundle = write_strips(tmp_path / "steel", {"train": 12}), zoo.find("surface-12")
    plain, divided = (
        judge(
            bundle,
            data,
            EvaluationRequest(clean_simulated=3, predictions=tmp_path / f"{name}.json", tasks=runner),
        )
        for name, runner in (("plain", ALONE), ("divided", tasks))
    )
    assert (plain.workers, divided.workers) == (1, 2)
    same = {"latency_ms": plain.latency_ms, "workers": 1}
    assert msgspec.structs.replace(divided, **same) == plain
    assert (tmp_path / "divided.json").read_bytes() == (tmp_path / "plain.json").read_bytes()
    # the command finds the Ray that runs in this process
    assert main(["evaluate", str(bundle), "--data", str(data), "--workers", "2"]) == 0
    assert "2 tasks at once" in capsys.readouterr().out


def test_thresholds_are_chosen_alike(tasks: TaskRunner, tmp_path: Path) -> None:
    data, bundle = write_strips(tmp_path / "steel", {"train": 14}), open_bundle(zoo.find("surface-12"))
    request = FrameRequest(data=[data], fold="all", simulated=3)
    plain, divided = (
        decide(bundle, request, ErrorCosts(miss=100.0, reject=1.0, bad_share=0.01), tasks=runner)
        for runner in (ALONE, tasks)
    )
    assert divided == plain


def test_layers_that_hurt_are_found_alike(tasks: TaskRunner, tmp_path: Path) -> None:
    found = []
    for runner, name in ((ALONE, "alone"), (tasks, "tasks")):
        (tmp_path / name).mkdir()
        given = dataclasses.replace(context(tmp_path / name, outlier=3000.0, max_drop=0.0), tasks=runner)
        chosen, int8 = QuantizationSearch(given.source.model, given).choose()
        found.append((chosen, int8.read_bytes()))
    assert found[0] == found[1] and len(found[0][0].harms) == 4


def test_trials_of_a_search_are_the_same_and_outlive_a_worker(tasks: TaskRunner, tmp_path: Path) -> None:
    alone, counts = search_context(tmp_path), []
    context = progressive_context(alone)
    assert context.space.blocks and context.space.kernels
    divided = dataclasses.replace(
        context,
        optimization=dataclasses.replace(context.optimization, tasks=tasks),
        progress=ProgressReporter(lambda _: None, lambda *count: counts.append(count)),
    )
    dying = dataclasses.replace(PREDICTED, measure=partial(predict_and_die_once, tmp_path))
    how: Any = {"sampler": "nsga2", "trials": 14, "seed": 3}  # one generation, and the beginning of the next
    expected = search(context, tmp_path / "alone", method=PREDICTED, **how)
    assert search(divided, tmp_path / "divided", method=dying, **how) == expected
    assert (tmp_path / "killed").exists() and len({each.choice for each in expected}) > 10
    assert counts == [("search (nsga2)", number, 14) for number in range(1, 15)]
    assert search(divided, tmp_path / "divided", method=PREDICTED, **{**how, "trials": 9}) == expected[:9]
    # without data each trial is quantized in a task and timed here: all but the time is the same
    pruned = [
        [(each.choice, each.harm) for each in search(one, tmp_path / name, method=CUT, **{**how, "trials": 2})]
        for one, name in (
            (alone, "cut"),
            (dataclasses.replace(alone, optimization=divided.optimization), "cut-divided"),
        )
    ]
    assert pruned[0] == pruned[1]


def test_folds_give_the_same_figures_and_are_gone_on_with(
    tasks: TaskRunner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_masks(tmp_path / "squares", 12)
    settings = SegmenterConfig(
        data=(data,), out=tmp_path / "plain", epochs=1, batch=4, side_px=64, channels=16, evaluate_every=1
    )
    plain = cross_validate("segmenter", settings, 2)
    assert len({run.mean for run in plain.folds}) == 2  # other pictures were held out
    words = f"train segmenter --data {data} --out {tmp_path / 'divided'} --folds 2 --workers 2 --epochs 1 --batch 4"
    words += " --side 64 --channels 16 --evaluate-every 1 --json"
    assert main(words.split()) == 0
    divided = json.loads(capsys.readouterr().out)
    assert [run["curve"] for run in divided["folds"]] == [run.curve for run in plain.folds]
    assert divided["mean"] == plain.mean
    kept = tmp_path / "divided" / "fold-0.json"
    kept.write_bytes(kept.read_bytes().replace(f'"mean":{plain.folds[0].mean}'.encode(), b'"mean":0.75'))
    (tmp_path / "divided" / "fold-1.json").unlink()
    assert main([*words.split(), "--resume"]) == 0  # one fold is kept, one is trained
    means = [run["mean"] for run in json.loads(capsys.readouterr().out)["folds"]]
    assert means == [0.75, plain.folds[1].mean]
    for more, said in ((["--gpus"], "--gpus with --folds"), ([], "holds a cross-validation")):
        assert main([*words.split(), *more]) != 0
        assert said in capsys.readouterr().err
    with pytest.raises(TrainingError, match="minutes with folds"):
        cross_validate("segmenter", msgspec.structs.replace(settings, minutes=1.0, resume=True), 2)
    with pytest.raises(TrainingError, match="other settings"):
        cross_validate("segmenter", msgspec.structs.replace(settings, epochs=2, resume=True), 2)


def test_two_workers_train_a_detector_and_say_what_it_cost(
    tasks: TaskRunner, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    data, out = write_strips(tmp_path / "steel", {"train": 24}), tmp_path / "run"
    words = ["train", "detector", "--data", str(data), "--workers", "2", "--epochs", "2", "--out", str(out), "--json"]
    words += ["--batch", "4", "--canvas", "64", "--simulated-share", "0", "--held-share", "0.3", "--threads", "1"]
    words += ["--architecture", "lite0-short@16", "--gradients", "bf16", "--evaluate-every", "1"]
    monkeypatch.setattr(driver, "WAITED_S", 1.0)
    holding = ray.remote(num_cpus=1)(wait_until_there).remote(tmp_path / "told")
    told: list[str] = []

    class Release(logging.Handler):
        """Lets the core go when it is told that one is missing."""

        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())
            (tmp_path / "told").touch()

    monkeypatch.setattr(driver.log, "handlers", [Release(logging.WARNING)])
    assert main(words) == 0
    assert any(
        re.fullmatch("no worker .*: 2 are needed, and 1 of the cluster's 2 cores are free", text) for text in told
    )
    ray.get(holding)
    found = json.loads(capsys.readouterr().out)
    assert {"workers", "epochs", "map50", "bytes_per_step", "communication_share", "samples_per_second"} <= set(found)
    assert (found["workers"], found["epochs"], found["restarts"], found["scheme"]) == (2, 2, 0, "bf16")
    assert found["bytes_per_step"] > 1e5 and 0 < found["communication_share"] < 1
    assert json.loads((out / "report.json").read_text())["samples_per_second"] == found["samples_per_second"]
    assert "bytes that a worker sends in a step" in (out / "report.html").read_text()
    facts = json.loads((out / "training.json").read_text())
    assert len(facts["losses"]) == 2 and facts["steps"] == facts["losses"][-1]["step"]
    assert Path(found["onnx"]) == out / "float.onnx" and (out / "float.onnx").exists()
    assert (out / "curves.html").exists()


def test_what_makes_no_sense_is_said_before_anything_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["train", "detector", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    for words, said in (
        ([*run, "--gpus"], "--gpus without --workers"),
        ([*run, "--workers", "0"], "workers is not usable"),
        ([*run, "--group", "canary"], "--group without --then"),
        ([*run, "--then", "optimize,push"], "without where to"),
        (["evaluate", "surface-12", "--data", str(tmp_path), "--address", "auto"], "--address without --workers"),
    ):
        assert main(words) != 0 and said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    for workers, failures in ((0, 3), (1, -1)):
        with pytest.raises(TrainingError, match="is not usable"):
            TaskCluster(workers=workers, max_failures=failures)
