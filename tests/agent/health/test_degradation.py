"""Reduced service under heat and lateness: with a board's files as a fixture, a real bundle with two variants, and the
whole agent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside_agent.cameras import Shot
from lineside_agent.config import DegradeConfig, InspectConfig, StoreConfig, parse_config
from lineside_agent.health.degradation import DegradationRunner, LatenessCounts, lateness_of, limits_of
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.deadline_policy import DeadlinePolicy
from lineside_agent.inspection.frame_sources import LatestFrame
from lineside_agent.inspection.loaded_bundle import LoadedBundle, load
from lineside_agent.inspection.pipeline import InspectionPipeline
from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_agent.line_io.verdict_reporter import VerdictReporter
from lineside_agent.storage.images import ImageArchive
from lineside_link.messages import DegradationReport, ResultRow
from lineside_models.frame import Frame
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError
from tests.boards.machines import jetson_orin_nano, raspberry_pi_5
from tests.peers.waiting import wait_for
from tests.worlds.agent import TriggeredAgent
from tests.worlds.bundles import FAST, bright, dark, make_bundle

SLOW = "onnx-fp32"
ROW = ResultRow(seq=0, part_id="p", verdict="pass")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("two") / "b", burden=64)


@pytest.fixture(scope="module")
def loaded(bundle: Bundle) -> Iterator[LoadedBundle]:
    made = load("a", bundle, InspectConfig(), degrade=DegradeConfig())
    yield made
    made.close()


def run(loaded: LoadedBundle, policy: DeadlinePolicy, frames: list[Shot]) -> list[ResultRow]:
    rows: list[ResultRow] = []
    active = ActiveBundle()
    active.swap(loaded)
    left = list(frames)
    InspectionPipeline(
        lambda: left.pop(0) if left else None,
        active,
        reporter=VerdictReporter([], lambda row, _: rows.append(row)),
        stop=threading.Event(),
        deadline_policy=policy,
    ).run()
    return rows


def shots(*numbers: int) -> list[Shot]:
    return [Frame(image=bright() if number % 2 else dark(), sequence=number, part_id=str(number)) for number in numbers]


# -- the faster variant --------------------------------------------------------------------------------------------


def test_the_variant_that_is_faster_here_is_found_by_timing_and_loaded_beside_the_other(loaded: LoadedBundle) -> None:
    assert loaded.session.variant == SLOW
    assert loaded.fast is not None
    assert loaded.fast.session.variant == FAST
    assert loaded.fast.usual_ms > 0


def test_none_is_loaded_where_none_is_wanted_or_there_is_none(bundle: Bundle, tmp_path: Path) -> None:
    for one, degrade in (
        (bundle, None),
        (bundle, DegradeConfig(steps=("images",))),
        (make_bundle(tmp_path / "plain"), DegradeConfig()),
    ):
        made = load("a", one, InspectConfig(), degrade=degrade)
        assert made.fast is None
        made.close()


def test_a_named_variant_is_taken_and_one_that_is_not_there_is_refused(bundle: Bundle) -> None:
    made = load("a", bundle, InspectConfig(), degrade=DegradeConfig(variant=FAST))
    assert made.fast is not None and made.fast.session.variant == FAST
    made.close()
    with pytest.raises(ConfigError, match=r"\$\.degrade\.variant"):
        load("a", bundle, InspectConfig(), degrade=DegradeConfig(variant="other"))


def test_a_part_that_would_be_late_is_judged_by_the_faster_variant_and_says_so(loaded: LoadedBundle) -> None:
    left_s = {0: 1e6, 1: 1e6, 2: 1e-6, 3: 1e-6, 4: 1e6}
    policy = DeadlinePolicy(left_s.get)
    rows = run(loaded, policy, shots(0, 1, 2, 3, 4))
    assert [row.verdict for row in rows] == ["pass", "reject", "pass", "reject", "pass"]
    assert [row.used_variant for row in rows] == [SLOW, SLOW, FAST, FAST, SLOW]
    assert {row.requested_variant for row in rows} == {SLOW}
    assert policy.hurried == 2


def test_a_variant_that_was_not_timed_is_learned_from_its_first_frame(bundle: Bundle) -> None:
    made = load("a", bundle, InspectConfig(), degrade=DegradeConfig(variant=FAST))
    policy = DeadlinePolicy(lambda _: 1.0)
    assert not policy.chooses_fast(made, Frame(image=dark()))
    policy.learn(2.0, fast=False)
    assert policy.chooses_fast(made, Frame(image=dark()))
    made.close()


def test_a_part_without_a_deadline_is_in_no_hurry(loaded: LoadedBundle) -> None:
    policy = DeadlinePolicy()
    assert [row.used_variant for row in run(loaded, policy, shots(0, 1))] == [SLOW, SLOW]
    assert policy.hurried == 0


def test_an_outlier_is_forgotten_although_only_the_faster_variant_judges(loaded: LoadedBundle) -> None:
    policy = DeadlinePolicy(lambda _: 0.2)
    frame = Frame(image=dark())
    policy.chooses_fast(loaded, frame)
    policy.learn(60.0, fast=False)
    assert policy.chooses_fast(loaded, frame)
    for _ in range(1000):
        if not policy.chooses_fast(loaded, frame):
            break
        policy.learn(0.001, fast=True)
    assert policy.expected_s <= 0.2


# -- the ladder on a board -----------------------------------------------------------------------------------------


class Bench:
    def __init__(self, root: Path, loaded: LoadedBundle, **settings: Any) -> None:
        told: dict[str, Any] = {"hold_s": 1e-6, "relief_s": 1e-6, "look_every_s": 1e-6, "system": root}
        self.reports: list[DegradationReport] = []
        self.lateness = LatenessCounts(0, 0)
        self.active = ActiveBundle()
        self.active.swap(loaded)
        self.archive = ImageArchive(root, StoreConfig(keep_images="all"))
        self.policy = DeadlinePolicy()
        self.frames = LatestFrame(threading.Event())
        self.degradation = DegradationRunner(
            DegradeConfig(**(told | settings)),
            archive=self.archive,
            active=self.active,
            deadline_policy=self.policy,
            frames=self.frames,
            lateness=lambda: self.lateness,
            report=self.reports.append,
        )

    def look(self, times: int) -> list[int]:
        found = []
        for _ in range(times):
            time.sleep(0.001)
            self.degradation.check()
            found.append(self.degradation.status()["step"])
        return found


def test_a_hot_pi_gives_up_images_then_the_better_variant_then_frames_and_takes_all_back(
    tmp_path: Path, loaded: LoadedBundle
) -> None:
    bench = Bench(raspberry_pi_5(tmp_path), loaded)
    assert bench.look(3) == [0, 0, 0]
    raspberry_pi_5_files(tmp_path, temperature="76000")  # the profile says 80, and 5 below that it is hot
    assert bench.look(5) == [0, 1, 2, 3, 3]
    assert not bench.archive.wants(ROW)
    assert bench.policy.always
    assert bench.frames.least_period_s == 0.5
    assert [row.used_variant for row in run(loaded, bench.policy, shots(0, 1))] == [FAST, FAST]
    status = bench.degradation.status()
    assert (status["steps"], status["reason"]) == (["images", "variant", "rate"], "76 °C, hot from 75 °C on")
    raspberry_pi_5_files(tmp_path, temperature="70000")
    assert bench.look(3) == [3, 3, 3]  # neither hot nor cool
    raspberry_pi_5_files(tmp_path, temperature="60000")
    assert bench.look(5) == [3, 2, 1, 0, 0]
    assert bench.archive.wants(ROW) and not bench.policy.always and not bench.frames.least_period_s
    assert [report.steps for report in bench.reports] == [
        ("images",),
        ("images", "variant"),
        ("images", "variant", "rate"),
        ("images", "variant"),
        ("images",),
        (),
    ]
    assert bench.degradation.status()["steps_ever"] == 3


def raspberry_pi_5_files(root: Path, *, temperature: str, throttled: str = "0") -> None:
    (root / "sys/class/thermal/thermal_zone0/temp").write_text(f"{temperature}\n")
    folder = root / "sys/devices/platform/soc@107c000000/soc@107c000000:firmware"
    (folder / "get_throttled").write_text(f"{throttled}\n")


def test_an_archive_that_keeps_no_passes_has_nothing_to_give_up(tmp_path: Path, loaded: LoadedBundle) -> None:
    bench = Bench(raspberry_pi_5(tmp_path, temperature="79000"), loaded)
    bench.archive.use(StoreConfig(keep_images="bad"))
    bench.look(4)
    assert bench.degradation.status()["steps"] == ["variant", "rate"]


def test_a_pi_whose_firmware_throttles_now_is_strained_at_any_temperature(tmp_path: Path, loaded: LoadedBundle) -> None:
    bench = Bench(raspberry_pi_5(tmp_path), loaded)
    raspberry_pi_5_files(tmp_path, temperature="50000", throttled="40000")  # it was, since the start
    assert bench.look(3) == [0, 0, 0]
    raspberry_pi_5_files(tmp_path, temperature="50000", throttled="40004")
    assert bench.look(2) == [0, 1]
    assert bench.reports[-1].reason == "throttled now"


def test_a_jetson_is_hot_by_its_zones_and_by_its_profile(tmp_path: Path, loaded: LoadedBundle) -> None:
    root = jetson_orin_nano(tmp_path)
    assert limits_of(DegradeConfig(system=root)).hot_c == 94.0
    bench = Bench(root, loaded)
    (root / "sys/class/thermal/thermal_zone0/temp").write_text("95000\n")
    assert bench.look(2) == [0, 1]


def test_a_board_that_nobody_describes_is_hot_from_80_on(tmp_path: Path) -> None:
    assert limits_of(DegradeConfig(system=tmp_path)).hot_c == 80.0


def test_a_late_line_degrades_and_a_quick_one_comes_back(tmp_path: Path, loaded: LoadedBundle) -> None:
    bench = Bench(tmp_path, loaded, late_share=0.1, steps=("variant",))
    assert bench.look(1) == [0]
    found = []
    for late in (10, 20, 20, 20, 20):
        bench.lateness = LatenessCounts(bench.lateness.total + 100, late)
        found += bench.look(1)
    assert found == [0, 1, 1, 0, 0]
    assert bench.policy.always is False


def test_lateness_is_told_by_parts_where_the_line_triggers_and_by_dropped_frames_where_not() -> None:
    head = b'device = "c"\nfolder = "s"\nbundle = "b"\n[camera]\ntype = "simulator"\n'
    for tables, expected in ((b"[trigger]\n", 1), (b"", 2), (b'[trigger]\nmode = "watch"\n', 0)):
        config = parse_config(head + tables, Path("/x"))
        assert lateness_of(config, lambda: LatenessCounts(9, 1), lambda: LatenessCounts(9, 2))().late == expected


# -- the whole agent -----------------------------------------------------------------------------------------------


def test_an_agent_on_a_hot_board_says_so_judges_by_the_faster_variant_and_recovers(
    tmp_path: Path, bundle: Bundle
) -> None:
    board = tmp_path / "board"
    board.mkdir()
    raspberry_pi_5(board)
    table = f'[store]\nkeep_images = "all"\n[degrade]\nsystem = "{board}"\n'
    table += "hold_s = 0.1\nrelief_s = 0.1\nlook_every_s = 0.1\n"
    agent = TriggeredAgent(tmp_path, bundle.path, table)
    try:
        agent.wait_ready()
        ask(agent.state, TriggerRequest("trigger", "cool"))
        raspberry_pi_5_files(board, temperature="79000")
        wait_for(lambda: agent.status["degradation"]["step"] == 2, what="two steps")
        ask(agent.state, TriggerRequest("trigger", "hot"))
        raspberry_pi_5_files(board, temperature="50000")
        wait_for(lambda: agent.status["degradation"]["step"] == 0, what="recovered")
        ask(agent.state, TriggerRequest("trigger", "cool-again"))
        assert agent.stop() == 0
    finally:
        agent.stop()
    used = {row.part_id: (row.requested_variant, row.used_variant) for row in agent.rows()}
    assert used == {"cool": (SLOW, SLOW), "hot": (SLOW, FAST), "cool-again": (SLOW, SLOW)}
    assert "degraded to step 2 (images, variant): 79 °C, hot from 75 °C on" in agent.log
    assert "back to step 0 (full service)" in agent.log
