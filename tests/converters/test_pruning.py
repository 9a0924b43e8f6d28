"""Pruning: what goes together, what matters least, what it costs, and that the network still knows what it knew."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("torch_pruning", reason="the train extra is not installed")

import torch
from torch import Tensor, nn

from lineside_converters.distillation.distill import macs
from lineside_converters.distillation.losses import LogitDistillation
from lineside_converters.distillation.trainer import DistillationSettings, train_student
from lineside_converters.pruning.channel_groups import find_groups, out_channels, remove
from lineside_converters.pruning.layer_cost import BLOCK, LayerCosts, measure_costs
from lineside_converters.pruning.sensitivity import ChannelSensitivity, measure_curves, rank_channels, weakest
from lineside_converters.pruning.structured import (
    Sensitivity,
    Timed,
    apply_plan,
    fold_norms,
    measure_sensitivity,
    plan_pruning,
)
from lineside_converters.pruning.torch_graph import PrunableNetwork, close_network, open_network
from lineside_converters.pruning.width_selection import choose_widths, narrower, predicted_harm
from lineside_converters.training.objective import as_tuple
from lineside_converters.training.progress import OnProgress, TrainingProgress
from lineside_runtime.errors import PruningError
from tests.converters.small_nets import BarObjective, Blocks, bars, write

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def objective() -> BarObjective:
    return BarObjective()


@pytest.fixture(scope="module")
def trained(objective: BarObjective, tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    model = Blocks()
    settings = DistillationSettings(learning_rate=4e-3, epochs=4, evaluate_every=4, warm_up_steps=4, threads=1)
    train_student(
        model, None, objective, LogitDistillation(), settings=settings, out=tmp_path_factory.mktemp("t"),
        on_progress=lambda _: None,
    )  # fmt: skip
    return model


@pytest.fixture(scope="module")
def network(trained: Blocks, tmp_path_factory: pytest.TempPathFactory) -> PrunableNetwork:
    path = write(copy.deepcopy(trained), tmp_path_factory.mktemp("g") / "float.onnx")
    return open_network(path, [bars(64, 77)[0]])


def test_an_exported_graph_computes_the_same_as_a_module_with_its_norms_put_back_and_folded_again(
    trained: Blocks, network: PrunableNetwork
) -> None:
    images, folded = bars(8, 3)[0], fold_norms(network.copy().module).eval()
    with torch.no_grad():
        wanted = trained.eval()(images)
        for module in (network.module.eval(), folded):
            np.testing.assert_allclose(as_tuple(module(images))[0], wanted, atol=1e-4)
    assert sum(isinstance(each, nn.BatchNorm2d) for each in network.module.modules()) == 4
    assert not any(isinstance(each, nn.BatchNorm2d) for each in folded.modules())
    assert network.dynamic_axes == {"image": {0: "batch"}, "logits": {0: "batch"}}


def test_channels_that_meet_in_an_addition_or_pass_a_depthwise_convolution_are_one_group_and_go_together(
    network: PrunableNetwork,
) -> None:
    grouping = find_groups(network.module, network.example)
    assert sorted(group.width for group in grouping.groups) == [16, 32]
    joined = next(group for group in grouping.groups if group.width == 16)
    assert len(joined.makers) == 2  # stem and back
    assert list(grouping.left.values()) == ["its channels are an output of the network"]
    made = network.copy()
    groups = find_groups(made.module, made.example).groups
    remove(made.module, made.example, {group.name: [0, 1, 2] for group in groups})
    assert sorted(out_channels(made.module.get_submodule(group.name)) for group in groups) == [13, 29]
    assert as_tuple(made.module(bars(2, 1)[0]))[0].shape == (2, 3)


def test_networks_without_channels_to_spare_or_that_torch_has_no_form_of_are_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    single = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    with pytest.raises(PruningError, match="no channels") as caught:
        find_groups(single, bars(1, 0)[0])
    assert "an output of the network" in str(caught.value.actual) and caught.value.code == 6007
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("StringNormalizer", ["x"], ["y"], name="odd")], "g", [x], [y])
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    with pytest.raises(PruningError, match="no form that could be trained"):
        open_network(path, [bars(1, 0)[0]])


def test_a_dead_channel_matters_least(network: PrunableNetwork, objective: BarObjective) -> None:
    made = network.copy()
    groups = find_groups(made.module, made.example).groups
    wide = next(group for group in groups if group.width == 32)
    takers = [made.module.get_submodule(name) for name in wide.takers if "back" in name]
    with torch.no_grad():
        for layer in takers:
            layer.get_parameter("weight")[:, 7] = 0
    ranks = rank_channels(made.module, groups, objective.some(3), LogitDistillation(), seed=0)
    assert weakest(ranks[wide.name], 1) == [7]


def test_curves_rise_as_channels_go_and_know_which_channels_matter(
    network: PrunableNetwork, objective: BarObjective
) -> None:
    groups = find_groups(network.module, network.example).groups
    batches = objective.some(2)
    ranks = rank_channels(network.module, groups, objective.some(4), LogitDistillation(), seed=0)
    wrong = {name: -scores for name, scores in ranks.items()}
    best, worst = (
        measure_curves(network.module, groups, each, batches, LogitDistillation(), report=lambda _: None)
        for each in (ranks, wrong)
    )
    for curve in best:
        assert curve.kept[0] == 1 and list(curve.harm) == sorted(curve.harm) and curve.harm[0] == 0
    at = next(number for number, group in enumerate(groups) if group.width == 32)
    assert 2 * sum(best[at].harm) < sum(worst[at].harm)  # ten times, measured


def test_a_curve_answers_between_and_beyond_its_points() -> None:
    curve = ChannelSensitivity("g", (1.0, 0.5, 0.25), (0.0, 1.0, 3.0))
    assert curve.at(1.0) == 0 and curve.at(0.75) == pytest.approx(0.5) and curve.at(0.5) == 1
    assert curve.at(0.2) == pytest.approx(3.4)


def costs_of_two(first_us: float, second_us: float) -> LayerCosts:
    return LayerCosts(
        layers_us={"a": first_us, "b": second_us}, other_us=10.0, makers={"a": "g", "b": "h"}, takers={},
        full={"g": 4 * BLOCK, "h": 4 * BLOCK},
    )  # fmt: skip


def test_the_widths_chosen_spare_the_sensitive_group_and_reach_the_time_or_the_most_there_is_is_told() -> None:
    costs = costs_of_two(100.0, 100.0)
    curves = [ChannelSensitivity("g", (1.0, 0.25), (0.0, 0.01)), ChannelSensitivity("h", (1.0, 0.25), (0.0, 9.0))]
    chosen = choose_widths(costs, curves, speedup=1.4)
    assert costs.predict_us(chosen) <= costs.total_us / 1.4
    assert chosen["h"] == 4 * BLOCK > chosen["g"]
    assert predicted_harm(curves, chosen, costs.full) == pytest.approx(0.01)
    with pytest.raises(PruningError, match="not enough") as caught:
        choose_widths(costs, [ChannelSensitivity("g", (1.0, 0.25), (0.0, 0.0))], speedup=3.0)
    assert "1.5" in str(caught.value.actual)
    assert [narrower(96, 96), narrower(32, 32), narrower(8, 8)] == [[80, 64, 48, 32], [24, 16, 8], [4]]


def test_the_time_of_every_layer_is_found_in_the_engines_profile(network: PrunableNetwork) -> None:
    groups = find_groups(network.module, network.example).groups
    costs = measure_costs(network, groups, bars(1, 0)[0])
    assert len(costs.layers_us) == 5 and all(us > 0 for us in costs.layers_us.values())
    assert costs.predict_us({group.name: 4 for group in groups}) < costs.total_us


def test_pruned_and_taught_the_network_knows_what_it_knew(
    network: PrunableNetwork, objective: BarObjective, tmp_path: Path
) -> None:
    said: list[str] = []
    distillation_loss = LogitDistillation()
    found = measure_sensitivity(
        network, objective, distillation_loss, frame=network.example, seed=0, work=tmp_path, report=said.append
    )
    again = measure_sensitivity(
        network, objective, distillation_loss, frame=network.example, seed=0, work=tmp_path, report=said.append
    )
    assert again == found and said[-1] == "sensitivity: as measured before"
    plan = plan_pruning(network, evened(found), speedup=1.3, timed=counted(network), work=tmp_path, report=said.append)
    assert any(plan.dropped.values()) and plan.measured_speedup >= 1.27
    student = apply_plan(network, plan, objective)
    settings = DistillationSettings(epochs=3, evaluate_every=3, warm_up_steps=3, threads=1, learning_rate=2e-3)
    train_student(
        student.module, network.copy().module, objective, distillation_loss, settings=settings, out=tmp_path / "run",
        on_progress=lambda _: None,
    )  # fmt: skip
    before, after = (objective.evaluate(each.module)["top1"] for each in (network, student))
    assert before > 0.85 and after > before - 0.06
    difference = close_network(student, tmp_path / "pruned.onnx", [bars(1, 0)[0], bars(3, 0)[0]])
    assert difference < 1e-3


def evened(found: Sensitivity) -> Sensitivity:
    """The same sensitivity with all layers equally dear: a profile of microseconds tells them apart by luck."""
    layers = dict.fromkeys(found.costs.layers_us, 100.0)
    return msgspec.structs.replace(found, costs=dataclasses.replace(found.costs, layers_us=layers, other_us=0.0))


def counted(network: PrunableNetwork) -> Timed:
    """Stands in for the clock, which is no good on networks of microseconds: counts multiply-accumulates."""
    whole = macs(network.module, network.example)
    return lambda pruned: whole / macs(pruned.module, pruned.example)


def test_widths_are_corrected_by_what_is_measured_and_a_plan_made_before_is_kept(
    network: PrunableNetwork, objective: BarObjective, tmp_path: Path
) -> None:
    found = measure_sensitivity(
        network, objective, LogitDistillation(), frame=network.example, seed=0, work=tmp_path, report=lambda _: None
    )
    said: list[str] = []
    found, times = evened(found), iter([1.05, 1.14])
    with pytest.raises(PruningError):  # the speed is never reached
        plan_pruning(network, found, speedup=1.2, timed=lambda _: 1.0, work=tmp_path, report=lambda _: None)
    first = plan_pruning(network, found, speedup=1.15, timed=lambda _: next(times), work=tmp_path, report=said.append)
    assert len(said) == 2 and "1.05 times measured" in said[0] and first.measured_speedup == 1.14
    assert plan_pruning(network, found, speedup=1.15, timed=lambda _: 9.0, work=tmp_path, report=said.append) == first
    assert "as chosen before" in said[-1]


class KilledError(BaseException):
    """Stands for a kill: nothing in the training may catch it."""


def test_a_killed_run_goes_on_and_ends_in_the_same_weights(objective: BarObjective, tmp_path: Path) -> None:
    settings = DistillationSettings(epochs=3, evaluate_every=1, threads=1)

    def run(out: Path, on_progress: OnProgress) -> dict[str, Tensor]:
        model = Blocks(seed=4)
        train_student(model, None, objective, LogitDistillation(), settings=settings, out=out, on_progress=on_progress)
        return model.state_dict()

    whole = run(tmp_path / "whole", lambda _: None)

    def kill(progress: TrainingProgress) -> None:
        if progress.step == 2 * objective.epoch_steps + 3:
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path / "cut", kill)
    heard: list[TrainingProgress] = []
    resumed = run(tmp_path / "cut", heard.append)
    assert heard[0].step == 2 * objective.epoch_steps
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, msg=name)


def test_a_student_hears_its_teacher_where_nothing_is_known_to_be_true(
    trained: Blocks, objective: BarObjective, tmp_path: Path
) -> None:
    student = Blocks(width=8, seed=9)
    settings = DistillationSettings(
        learning_rate=4e-3,
        true_weight=0.0,
        feature_weight=0.1,
        epochs=10,
        evaluate_every=4,
        threads=1,
        warm_up_steps=4,
    )
    train_student(
        student, copy.deepcopy(trained), objective, LogitDistillation(), settings=settings, out=tmp_path,
        on_progress=lambda _: None,
    )  # fmt: skip
    assert objective.evaluate(student)["top1"] > 0.7
