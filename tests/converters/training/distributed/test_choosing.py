"""The scheme and the layout that are chosen, and why; what more workers would cost."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import torch

from lineside_converters.training.distributed.cost import Exchanged, WorkerCost, report
from lineside_converters.training.distributed.scheme_selection import SchemeChoice, TrialTime, choose, last_share_of
from lineside_converters.training.distributed.sharding import layout_for, layouts_with

ALL = ("fp32", "bf16", "int8", "low-rank")


def choice(alone_s: tuple[float, ...], equal: tuple[str, ...] = ALL, last_share: float = 0.3) -> SchemeChoice:
    by_name = {name: TrialTime(each) for name, each in zip(ALL, alone_s, strict=True)}
    return choose(by_name, compute_s=0.5, backward_s=0.3, last_share=last_share, equal=equal)


def test_a_fast_link_keeps_float32() -> None:
    found = choice((0.02, 0.015, 0.02, 0.03))
    assert found.scheme == "fp32" and "20 ms" in found.why


def test_a_slow_link_takes_the_least_waiting_of_those_that_were_shown_equal() -> None:
    assert choice((4.0, 2.0, 1.0, 0.1)).scheme == "low-rank"
    found = choice((4.0, 2.0, 1.0, 0.1), equal=("fp32", "bf16", "int8"))
    assert found.scheme == "int8"
    assert "low-rank left out: not shown" in found.why


def test_what_the_backward_pass_hides_is_not_waited_for_but_updates_of_sharded_parameters_are() -> None:
    found = choice((0.2, 0.1, 0.1, 0.1), last_share=0.1)
    assert found.waiting_s["fp32"] == pytest.approx(0.02)
    assert found.scheme == "fp32"
    updates = {"int4": TrialTime(0.1, update_s=0.2)}
    found = choose(updates, compute_s=0.5, backward_s=0.3, last_share=0.0, equal=("int4",))
    assert found.waiting_s["int4"] == pytest.approx(0.2)


def test_local_updates_hide_behind_whole_steps_and_are_taken_on_the_slowest_links() -> None:
    trials = {"fp32": TrialTime(80.0), "int4": TrialTime(5.0), "local": TrialTime(5.0)}
    found = choose(trials, compute_s=0.5, backward_s=0.3, last_share=0.3, equal=tuple(trials))
    assert found.scheme == "local" and "local 5000 ms once in 32 steps" in found.why
    assert found.waiting_s["local"] == 0.0  # a quarter of 5 s passes while four steps of 0.5 s compute
    trials["local"] = TrialTime(16.0)
    slower = choose(trials, compute_s=0.5, backward_s=0.3, last_share=0.3, equal=tuple(trials))
    assert slower.waiting_s["local"] == pytest.approx(4 * (16 / 4 - 4 * 0.5) / 32)


def test_a_small_network_fills_one_bucket() -> None:
    assert last_share_of(torch.nn.Linear(10, 10), 25e6) == 1.0
    assert last_share_of(torch.nn.Linear(1000, 10_000), 25e6) == pytest.approx(15.04e6 / 40.04e6)


@pytest.mark.parametrize(("memory", "name"), [(8e9, "ddp"), (0.95e9, "zero1"), (0.5e9, "fsdp")])
def test_the_layout_follows_from_the_size_against_a_workers_memory(memory: float, name: str) -> None:
    found, why = layout_for(100_000_000, int(memory), 4)
    assert found == name and "MB of state" in why
    assert layouts_with("int8") == ("ddp", "zero1", "fsdp")
    assert layout_for(100_000_000, 1_000_000, 4, layouts_with("bf16"))[0] == "zero1"  # that averages the scheme


def figures(waited_s: float, exchanged: Exchanged = ()) -> WorkerCost:
    return WorkerCost(
        steps=10, seconds=10 * (0.4 + waited_s), waited_s=10 * waited_s, rows=160, bytes_sent=10 * 45e6,
        step_s=0.4 + waited_s, compute_s=0.4, memory_bytes=1000, layout="ddp", layout_why="", scheme="fp32",
        scheme_why="", shares=(0.5, 0.5), exchanged=exchanged,
    )  # fmt: skip


def test_the_report_adds_workers_up_and_foretells_a_ring() -> None:
    # handed over 0.2 s before the end of the backward pass, at its end; through 0.1 s and 0.3 s behind it
    found = report([figures(0.3, ((0.2, 0.3), (0.0, 0.2)))] * 2, epochs=3, restarts=1)
    assert found.communication_share == pytest.approx(0.3 / 0.7)
    assert found.samples_per_second == pytest.approx(2 * 16 / 0.7)
    four = found.predicted[0]
    assert four.workers == 4
    assert four.bytes_per_step == pytest.approx(45e6 * 1.5)
    assert four.step_s == pytest.approx(0.4 + 1.5 * 0.5 - 0.2)
    assert report([figures(0.0)], epochs=1, restarts=0).predicted == ()


def test_more_workers_do_not_wait_for_what_the_backward_pass_has_room_for() -> None:
    found = report([figures(0.02, ((0.2, 0.1), (0.0, 0.02)))] * 2, epochs=1, restarts=0)
    assert found.predicted[0].step_s == pytest.approx(0.4 + 1.5 * 0.02)
    found = report([figures(0.3)] * 2, epochs=1, restarts=0)  # without the bundles, waiting grows as the bytes do
    assert found.predicted[0].step_s == pytest.approx(0.4 + 1.5 * 0.3)
