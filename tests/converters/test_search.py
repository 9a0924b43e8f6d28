"""Level 3: fronts and their areas, the space, a search that survives a kill, and what is shipped of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("torch_pruning", reason="the train extra is not installed")
pytest.importorskip("optuna", reason="the train extra is not installed")

import torch
from torch import Tensor, nn

from lineside_converters.distillation.answer_cache import AnswerCache
from lineside_converters.distillation.trainer import DistillationSettings
from lineside_converters.search import progressive, trials
from lineside_converters.search.kernel_sizes import crop_kernels, large_kernels
from lineside_converters.search.pareto import front, hypervolume
from lineside_converters.search.pipeline import SearchBudget, accounts, choose, find, judge, timed_together
from lineside_converters.search.progressive import find_progressive, progressive_context
from lineside_converters.search.residual_blocks import removable_blocks, without_blocks
from lineside_converters.search.space import SearchChoice, widths_of
from lineside_converters.search.study import Sampler, TrialMethod
from lineside_converters.search.study import search as run_study
from lineside_converters.search.trials import SearchContext, SearchTrial, TunedNetwork, claim, shortlist
from tests.converters.search_context import search_context
from tests.converters.small_nets import bars

pytestmark = pytest.mark.torch


def test_the_front_is_what_none_beats_in_both_and_the_area_that_of_the_union_of_rectangles() -> None:
    from optuna._hypervolume import compute_hypervolume

    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (2.5, 0.9), (1.0, 0.6)]
    assert [points[index] for index in front(points)] == [(1.0, 0.6), (2.5, 0.9)]
    assert hypervolume([], (4.0, 0.0)) == 0
    assert hypervolume([(1.0, 0.5)], (4.0, 0.0)) == pytest.approx(1.5)
    assert hypervolume([(1.0, 0.5), (2.0, 1.0), (3.0, 0.7)], (4.0, 0.0)) == pytest.approx(0.5 + 2.0)
    assert hypervolume([(5.0, 1.0)], (4.0, 0.0)) == 0
    drawn = np.random.default_rng(0).uniform(0, 1, (20, 2))
    theirs = compute_hypervolume(np.stack([drawn[:, 0], -drawn[:, 1]], 1), np.array([1.0, 0.0]))
    assert hypervolume([tuple(point) for point in drawn], (1.0, 0.0)) == pytest.approx(theirs)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> SearchContext:
    return search_context(tmp_path_factory.mktemp("bench"))


def test_the_space_has_every_group_in_one_stage_what_the_task_allows_and_fewer_channels_for_less_time(
    bench: SearchContext,
) -> None:
    names = [name for stage in bench.space.stages for name in stage]
    assert sorted(names) == sorted(curve.group for curve in bench.found.groups)
    assert bench.space.sizes[0] == 1.0 and len(bench.space.sizes) > 1  # its answer is one for the whole picture
    assert bench.space.engines == ("ort",)
    whole, narrow = (widths_of(bench.found, bench.space, [kept] * len(bench.space.stages)) for kept in (1.0, 0.2))
    assert whole == bench.found.widths
    assert sum(narrow.values()) < sum(whole.values())
    text = str(SearchChoice((1.0, 0.5), 0.75, "minmax", 1, "ort"))
    assert text == "kept 1.00 0.50, 0.75 of the side, minmax, 1 convolutions in float, ort"


def imagined(_: SearchContext, choice: SearchChoice) -> SearchTrial:
    return SearchTrial(choice=choice, latency_ms=sum(choice.kept), harm=1.0 - min(choice.kept))


def search(
    context: SearchContext, folder: Path, *, sampler: Sampler, trials: int, seed: int, measure: Any = imagined
) -> list[SearchTrial]:
    method: TrialMethod[SearchTrial] = TrialMethod(measure, lambda _, measured: list(measured))
    return run_study(context, folder, sampler=sampler, trials=trials, seed=seed, method=method)


class KilledError(BaseException):
    """Stands for a kill."""


def test_a_killed_search_keeps_its_trials_and_goes_on(bench: SearchContext, tmp_path: Path) -> None:
    made: list[SearchChoice | None] = []

    def fake(_: SearchContext, choice: SearchChoice) -> SearchTrial:
        if len(made) == 3:
            made.append(None)
            raise KilledError
        made.append(choice)
        return SearchTrial(choice=choice, latency_ms=1.0 + sum(choice.kept), harm=1.0 - min(choice.kept))

    with pytest.raises(KilledError):
        search(bench, tmp_path, sampler="nsga2", trials=6, seed=3, measure=fake)
    tried = search(bench, tmp_path, sampler="nsga2", trials=6, seed=3, measure=fake)
    assert [each.choice for each in tried[:3]] == made[:3] and len(tried) == 6 and len(made) == 7
    assert search(bench, tmp_path / "whole", sampler="nsga2", trials=6, seed=3, measure=fake) == tried  # without a kill
    assert set(tried[0].choice.kept) == {0.8}
    assert search(bench, tmp_path, sampler="nsga2", trials=6, seed=3, measure=fake) == tried


def test_the_shortlist_is_the_fastest_and_what_covers_most() -> None:
    choice = SearchChoice((1.0,), 1.0, "minmax", 0, "ort")

    def tries(*points: tuple[float, float]) -> list[SearchTrial]:
        return [SearchTrial(choice=choice, latency_ms=ms, harm=harm) for ms, harm in points]

    even = tries(*((float(ms), 10.0 - ms) for ms in range(10)), (9.5, 9.0))
    assert [each.latency_ms for each in shortlist(even, 2)] == [0.0, 5.0]
    assert len(shortlist(even[:2], 3)) == 2
    knee = tries((1.0, 3.0), (1.1, 2.9), (1.2, 2.8), (1.3, 2.7), (2.0, 1.0), (6.0, 0.9))
    assert [each.latency_ms for each in shortlist(knee, 2)] == [1.0, 2.0]


def test_a_trial_is_timed_on_every_engine_and_takes_the_fastest(
    bench: SearchContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = {"slow": 3.0, "fast": 1.0, "other": 2.0}
    monkeypatch.setattr(trials, "measure", lambda _bench, _path, choice: took[choice.engine])
    space = dataclasses.replace(bench.space, engines=tuple(took))
    choice = SearchChoice((0.6,) * len(space.stages), 1.0, "minmax", 0, "slow")
    context = dataclasses.replace(bench, space=space)
    (tried,) = trials.time_trials(context, [trials.try_out(context, choice)])
    assert (tried.choice.engine, tried.latency_ms) == ("fast", 1.0)
    assert tried.harm > 0


def test_what_is_compared_is_timed_together_each_on_its_own_input(bench: SearchContext, tmp_path: Path) -> None:
    whole = judge(bench, bench.setup.network, tmp_path / "whole")
    small = [dataclasses.replace(whole[0].choice, size=0.75)]
    (tmp_path / "small").mkdir()
    path = trials.quantised(bench, bench.setup.network, small[0], tmp_path / "small")
    other = TunedNetwork(choice=small[0], latency_ms=1e9, metric=0.5, model=str(path.with_name("clean.onnx")))
    told = timed_together(bench, {"whole": whole, "small": [other]})
    assert [each.metric for each in told["small"]] == [0.5]
    assert 0 < told["small"][0].latency_ms < 1e3
    assert len(told["whole"]) == len(whole)


def test_a_real_search_finds_fine_tuned_and_measured_networks(bench: SearchContext, tmp_path: Path) -> None:
    settings = DistillationSettings(learning_rate=2e-3, epochs=1, warm_up_steps=2, threads=1)
    found = find(bench, SearchBudget(trials=4, shortlist=2, settings=settings), tmp_path)
    assert 1 <= len(found) <= 2
    for each in found:
        assert each.latency_ms > 0 and 0.3 < each.metric <= 1 and each.model.endswith("clean.onnx")
    again = find(bench, SearchBudget(trials=4, shortlist=2, settings=settings), tmp_path)
    assert again == found


def finished(latency_ms: float, metric: float, size: float = 1.0) -> TunedNetwork:
    return TunedNetwork(
        choice=SearchChoice((1.0,), size, "minmax", 0, "ort"), latency_ms=latency_ms, metric=metric, model="clean.onnx"
    )


def test_the_fastest_that_is_good_enough_is_shipped_and_never_for_another_input() -> None:
    points = [finished(3.0, 0.95), finished(1.0, 0.93), finished(0.5, 0.6), finished(0.2, 0.99, size=0.75)]

    def chosen(source_metric: float, max_drop: float, refused: Sequence[int] = ()) -> TunedNetwork:
        return choose(
            points, source_metric=source_metric, max_drop=max_drop, passes=lambda one: points.index(one) not in refused
        )

    assert chosen(0.95, 0.03) is points[1]
    assert chosen(0.99, 0.0) is points[0]
    assert chosen(0.95, 0.03, refused=[1]) is points[0]
    assert chosen(0.95, 0.03, refused=[0, 1]) is points[2]
    assert chosen(0.95, 0.03, refused=[0, 1, 2]) is points[1]  # the gate says why


def test_the_account_marks_the_front_and_measures_every_series_against_one_point() -> None:
    series = {"search": [finished(1.0, 0.9), finished(3.0, 0.8)], "level 2": [finished(2.0, 0.85)]}
    candidates, areas = accounts(series, series["search"][0])
    assert [each.front for each in candidates] == [True, False, False]
    assert [each.shipped for each in candidates] == [True, False, False]
    values = {each.series: each.value for each in areas}
    assert values["search"] == pytest.approx((3.15 - 1.0) * 0.9) and values["level 2"] == pytest.approx(1.15 * 0.85)


def test_a_network_without_a_residual_block_computes_what_is_around_it(bench: SearchContext) -> None:
    module = bench.setup.network.module
    blocks = removable_blocks(module)
    assert len(blocks) == 1
    images = bars(4, 2)[0]
    shallow = without_blocks(module, blocks).eval()
    stem = next(layer for layer in shallow.modules() if isinstance(layer, nn.Sequential))
    assert len(list(shallow.parameters())) < len(list(module.parameters()))
    seen: list[Tensor] = []
    stem.register_forward_hook(lambda _m, _i, out: seen.append(out))
    answer = shallow(images)
    at = torch.relu(torch.relu(seen[0])).mean((2, 3))
    head = next(layer for layer in shallow.modules() if isinstance(layer, nn.Linear))
    assert torch.allclose(answer, head(at), atol=1e-5)
    assert without_blocks(module, ()).eval()(images).equal(module.eval()(images))


def test_a_small_kernel_is_the_middle_of_the_large_one(bench: SearchContext) -> None:
    module = bench.setup.network.copy().module
    (name,) = large_kernels(module)
    conv = module.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    images = torch.randn(2, conv.in_channels, 8, 8)
    outside = conv.weight.clone()
    outside[:, :, 1:-1, 1:-1] = 0
    whole = nn.functional.conv2d(images, conv.weight, conv.bias, padding=2, groups=conv.groups)
    border = nn.functional.conv2d(images, outside, None, padding=2, groups=conv.groups)
    crop_kernels(module, [name, "a block that was left out"])
    assert torch.allclose(conv(images), whole - border, atol=1e-5) and large_kernels(module) == ()
    context = progressive_context(bench)
    assert context.space.kernels[name] > 0
    assert list(context.space.kernels_by_stage(bench.found.costs).values()) == [(name,)]
    choice = SearchChoice((1.0,) * len(context.space.stages), 1.0, "minmax", 0, "ort")
    cropped = dataclasses.replace(choice, cropped=(name,))
    assert "1 kernels made 3×3" in str(cropped)
    form = progressive.whole_form(context)
    small = progressive.form_of(context, cropped, form)
    assert form.contains(small.widths, cropped) and not small.contains(form.widths, choice)
    saved_ms = progressive.predicted_ms(context, choice, form) - progressive.predicted_ms(context, cropped, small)
    saved_us = context.found.costs.layers_us[name] - context.space.kernels[name]
    assert saved_ms == pytest.approx(context.space.time_line[1] * saved_us / 1000)


def test_forms_of_other_width_depth_and_size_inherit_the_training_of_wider_ones(
    bench: SearchContext, tmp_path: Path
) -> None:
    context = progressive_context(bench)
    assert len(context.space.blocks) == 1 and 0.5 in context.space.sizes
    settings = DistillationSettings(learning_rate=2e-3, epochs=2, warm_up_steps=2, threads=1)
    found = find_progressive(context, trials=8, finished=3, settings=settings, folder=tmp_path)
    assert 1 <= len(found) <= 3
    assert all(each.latency_ms > 0 and each.model.endswith("clean.onnx") for each in found)
    assert max(each.metric for each in found) > 0.6
    assert find_progressive(context, trials=8, finished=3, settings=settings, folder=tmp_path) == found


def test_forms_that_are_trained_have_evenly_spaced_times_and_the_least_harm_of_theirs() -> None:
    choice = SearchChoice(kept=(1.0,), size=1.0, method="minmax", float_convs=0, engine="ort")

    def trial(latency_ms: float, harm: float) -> SearchTrial:
        return SearchTrial(choice=dataclasses.replace(choice, kept=(latency_ms,)), latency_ms=latency_ms, harm=harm)

    fast = [trial(1.0, 3.35), trial(1.02, 3.12), trial(1.4, 3.15)]  # harms of 3.1 to 3.4 are those of arbitrary answers
    slow = [trial(2.1, 2.8), trial(2.2, 3.8), trial(2.9, 1.9), trial(4.0, 1.2), trial(4.1, 1.3)]
    times = [each.latency_ms for each in progressive.spaced(fast + slow, 5)]
    assert times == [1.02, 1.4, 2.1, 2.9, 4.0]
    assert [each.latency_ms for each in progressive.spaced([*fast[:2], slow[4]], 3)] == [1.0, 1.02, 4.1]
    assert progressive.spaced(fast, 1) == [fast[0]]


def test_times_of_forms_are_corrected_by_measured_ones_and_faster_forms_train_for_more_epochs() -> None:
    constant_ms, factor = progressive.line_through((0.64, 0.354), (0.044, 0.098))
    assert constant_ms + factor * 0.297 == pytest.approx(0.207, abs=0.001)
    assert progressive.line_through((0.6, 0.3), (0.1, 0.35)) == (0.0, 0.5), "a busy machine"
    epochs = [
        progressive.more_epochs(DistillationSettings(epochs=4), slowest_ms=3.0, latency_ms=ms).epochs
        for ms in (3, 2, 1, 0.5)
    ]
    assert epochs == [4, 6, 12, 16], "at most four times"


def test_a_teacher_answers_a_batch_once_for_all_trainings() -> None:
    asked: list[Tensor] = []
    teacher = nn.Linear(4, 2)
    teacher.register_forward_pre_hook(lambda _m, given: asked.append(given[0]))
    cached, images = AnswerCache(teacher, bytes_max=2 * 3 * 2 * 4), [torch.randn(3, 4) for _ in range(3)]
    for _ in range(2):
        for image in images:
            assert torch.equal(cached(image)[0], teacher.weight.matmul(image.T).T + teacher.bias)
    assert len(asked) == 4, "two answers fit"


def test_a_folder_keeps_no_result_of_another_choice_seed_length_or_start(tmp_path: Path) -> None:
    first = SearchChoice(kept=(1.0, 0.5), size=1.0, method="minmax", float_convs=0, engine="ort")
    settings, folder = DistillationSettings(seed=1), tmp_path / "front-0"
    known = claim(folder, first, settings)
    for other in (
        lambda: claim(folder, dataclasses.replace(first, size=0.75), settings),
        lambda: claim(folder, first, dataclasses.replace(settings, seed=2)),
        lambda: claim(folder, first, dataclasses.replace(settings, epochs=1)),
        lambda: claim(folder, first, settings, known),
    ):
        claim(folder, first, settings)
        (folder / "finished.json").write_text("{}")
        assert claim(folder, first, settings) == known and (folder / "finished.json").exists()
        assert other() != known and not (folder / "finished.json").exists()


def test_a_search_begins_with_even_shares_a_longer_one_with_a_shorter_one_and_another_seed_anew(
    bench: SearchContext, tmp_path: Path
) -> None:
    whole = search(bench, tmp_path / "whole", sampler="nsga2", trials=13, seed=5)
    begun = [(each.choice.size, *set(each.choice.kept)) for each in whole[:9]]
    small = [(size, kept) for size in (0.875, 0.75) for kept in (0.3, 0.2)]  # narrow networks for small pictures
    assert begun == [(1.0, kept) for kept in (0.8, 0.6, 0.45, 0.3, 0.2)] + small
    assert search(bench, tmp_path / "parts", sampler="nsga2", trials=11, seed=5) == whole[:11]
    assert search(bench, tmp_path / "parts", sampler="nsga2", trials=13, seed=5) == whole
    assert search(bench, tmp_path / "parts", sampler="nsga2", trials=3, seed=5) == whole[:3]
    random = search(bench, tmp_path / "parts", sampler="random", trials=3, seed=5)
    assert search(bench, tmp_path / "parts", sampler="random", trials=3, seed=6) != random
    assert search(bench, tmp_path / "again", sampler="random", trials=3, seed=5) == random
