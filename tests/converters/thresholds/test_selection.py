"""Thresholds of a real detector on pictures made here: what they do is counted again from verdicts."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from lineside.cli import main
from lineside_agent.config import AgentConfig, SimulatorCameraConfig, with_settings
from lineside_converters.thresholds import (
    ErrorCosts,
    FrameRequest,
    RejectTolerance,
    ThresholdReport,
    check_gain,
    decide,
    settings_of,
    write_bundle,
    write_page,
)
from lineside_converters.thresholds.frames import gather_frames
from lineside_converters.thresholds.outcomes import ThresholdSet, cross_fold
from lineside_converters.thresholds.scoring import FrameScores, _nothing
from lineside_converters.training.data.samples import hold_out
from lineside_models.datasets import load_dataset
from lineside_models.inspector import Inspector
from lineside_models.labels import LABELS
from lineside_models.verdict.rules import Rules
from lineside_models.vision.images import frames
from lineside_models.vision.model_facts import ModelFacts
from lineside_models.vision.onnx_bundle import wrap_onnx
from lineside_runtime.bundle import Bundle, open_bundle, write_manifest
from lineside_runtime.errors import AccuracyGateError, ConfigError, DatasetError, InputError, InputNotFoundError
from lineside_runtime.session import Session
from tests.converters import nets

FRAMES = 60
GOOD = 110
COSTS = ErrorCosts(miss=100.0, reject=1.0, bad_share=0.01)


def _good_picture(seed: int) -> np.ndarray[Any, Any]:
    """Grey, with a cell that is a little bright or dark: some of them look like a weak defect."""
    random = np.random.default_rng(10_000 + seed)
    image = random.integers(110, 140, (96, 96)).astype(np.uint8)
    image[40:48, 40:48] = random.integers(40, 215)
    return image


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nets.write_cells_dataset(tmp_path_factory.mktemp("data") / "cells", FRAMES)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    for number in range(GOOD):
        cv2.imwrite(str(folder / f"{number}.png"), _good_picture(number))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return nets.bundle(tmp_path_factory.mktemp("bundle") / "cells", nets.cell_detector())


@pytest.fixture(scope="module")
def decision(bundle: Bundle, data: Path, good: Path) -> ThresholdReport:
    return decide(bundle, FrameRequest(data=[data], fold="val", good=[good]), COSTS)


def _passed(bundle: Bundle, pictures: list[Path], rules: Rules) -> int:
    with Session(bundle) as session:
        verdicts = Inspector(session, rules=rules).inspect_batch(list(frames(pictures)))
    return sum(verdict.verdict == "good" for verdict in verdicts)


def test_what_the_thresholds_do_is_what_verdicts_under_them_say(
    bundle: Bundle, data: Path, good: Path, decision: ThresholdReport
) -> None:
    bad = [sample.path for sample in load_dataset(data, "val").samples]
    fine = sorted(good.iterdir())
    for outcome, rules in (
        (decision.before, Rules()),
        (decision.after, Rules(thresholds={each.type: each.threshold for each in decision.types})),
    ):
        assert outcome.false_rejects is not None and outcome.cost is not None
        assert outcome.missed.count == _passed(bundle, bad, rules)
        assert outcome.false_rejects.count == len(fine) - _passed(bundle, fine, rules)
        expected = 0.01 * 100 * outcome.missed_types.share + 0.99 * outcome.false_rejects.share
        assert outcome.cost == pytest.approx(expected)
        assert outcome.missed.share <= outcome.missed_types.share
    assert (decision.bad_parts, sum(decision.good_parts.values())) == (FRAMES, GOOD)


def test_chosen_thresholds_are_cheaper_than_the_bundles_own_on_parts_that_they_were_not_chosen_on(
    bundle: Bundle, decision: ThresholdReport, tmp_path: Path
) -> None:
    assert decision.after.cost is not None and decision.before.cost is not None
    assert decision.after.cost < decision.before.cost
    assert decision.cross_fold.cost is not None
    assert decision.cross_fold.cost < decision.before.cost
    made = write_bundle(bundle, decision, tmp_path / "new")
    (tmp_path / "fresh").mkdir()
    for number in range(GOOD):
        cv2.imwrite(str(tmp_path / "fresh" / f"{number}.png"), _good_picture(5000 + number))
    fine = sorted((tmp_path / "fresh").iterdir())
    assert _passed(made, fine, Rules()) > _passed(bundle, fine, Rules())


def test_no_more_good_parts_are_rejected_than_are_tolerated_and_fewer_mean_more_missed_parts(
    bundle: Bundle, data: Path, good: Path
) -> None:
    request = FrameRequest(data=[data], fold="val", good=[good])
    strict, loose = (decide(bundle, request, RejectTolerance(share=share, bad_share=0.01)) for share in (0.02, 0.1))
    fine = sorted(good.iterdir())
    for found, share in ((strict, 0.02), (loose, 0.1)):
        rejected = found.after.false_rejects
        assert rejected is not None
        assert rejected.share <= share
        assert found.tolerated == share
        # Nothing is given away: the thresholds that are cheapest at these costs miss no more than others as strict.
        own = found.before.false_rejects
        assert own is not None and own.share > share
        rules = Rules(thresholds={each.type: each.threshold for each in found.types})
        assert len(fine) - _passed(bundle, fine, rules) == rejected.count
    assert strict.after.missed_types.count >= loose.after.missed_types.count
    assert all(a.threshold >= b.threshold for a, b in zip(strict.types, loose.types, strict=True))


@pytest.mark.parametrize("parts", [3, 40])
def test_a_part_is_never_judged_by_thresholds_that_were_chosen_on_it(parts: int) -> None:
    random = np.random.default_rng(0)
    part = random.integers(0, parts, 300)
    shows = random.random((300, 2)) < 0.4
    names = tuple(f"board {number}" for number in part)
    best = random.random((300, 2))
    scores = FrameScores(best, best, shows, ("here",) * 300, names, _nothing(), np.zeros(300, bool))
    chosen_on: list[set[int]] = []

    def choose(rows: np.ndarray[Any, np.dtype[np.bool_]]) -> ThresholdSet:
        chosen_on.append(set(part[rows].tolist()))
        assert not chosen_on[-1] & set(part[~rows].tolist())
        return ThresholdSet(np.full(2, 0.5), np.full(2, 0.5))

    cross_fold(scores, COSTS, choose)
    assert len(chosen_on) == min(parts, 5)
    assert set.union(*({*range(parts)} - seen for seen in chosen_on)) == {*range(parts)}  # each was judged


def test_parts_that_a_classifier_without_thresholds_makes_unsure_are_not_missed_before(tmp_path: Path) -> None:
    model = nets.doubtful_classifier(tmp_path / "doubtful.onnx")
    for kind, grey in (("dent", 0), ("hole", 127), ("good", 255)):
        (tmp_path / "parts" / kind).mkdir(parents=True)
        for number in range(8):
            cv2.imwrite(str(tmp_path / "parts" / kind / f"{number}.png"), np.full((32, 32 + number), grey, np.uint8))
    bundle = wrap_onnx(model, tmp_path / "bundle", ModelFacts())
    found = decide(bundle, FrameRequest(data=[tmp_path / "parts"], fold="all"), COSTS)
    with Session(bundle) as session:
        bad = list(frames(sorted((tmp_path / "parts").glob("[dh]*/*.png"))))
        assert {each.verdict for each in Inspector(session).inspect_batch(bad)} == {"unsure"}
    assert (found.before.missed.count, found.before.unsure_bad.count) == (0, 16)
    assert [each.miss_was.count for each in found.types] == [0, 0]
    assert found.before.false_rejects is not None and found.before.false_rejects.count == 0


def test_a_goal_is_given_once(bundle: Bundle, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["decide", str(bundle.path), "--data", str(data), "--fold", "val"]
    assert main([*call, "--false-rejects", "0.01", "--miss-cost", "5"]) == 1
    assert "one of the two" in capsys.readouterr().err
    assert main(call) == 1
    assert "--false-rejects, or --miss-cost and --reject-cost" in capsys.readouterr().err
    assert main([*call, "--false-rejects", "1.5"]) == 1
    assert "tolerated false rejects" in capsys.readouterr().err


def test_types_that_the_data_doesnt_show_keep_the_bundles_thresholds_and_an_agent_takes_all_as_toml(
    decision: ThresholdReport, tmp_path: Path
) -> None:
    assert [each.type for each in decision.types if not each.kept] == ["crazing", "inclusion"]
    assert all(each.threshold == each.was and not each.curve for each in decision.types if each.kept)
    assert all(each.curve for each in decision.types if not each.kept)
    local = AgentConfig(device="c", folder=tmp_path, camera=SimulatorCameraConfig())
    laid = with_settings(local, settings_of(decision).encode()).inspect
    assert laid.thresholds == {each.type: each.threshold for each in decision.types}


def test_with_reviews_there_is_a_band_whose_parts_are_unsure_by_rules_and_by_the_bundle(
    bundle: Bundle, data: Path, good: Path, tmp_path: Path
) -> None:
    found = decide(bundle, FrameRequest(data=[data], fold="val", good=[good]), dataclasses.replace(COSTS, review=0.1))
    bands = [each for each in found.types if each.unsure_from is not None]
    assert bands
    assert all(0 < (each.unsure_from or 0) < each.threshold for each in bands)
    rules = Rules(
        thresholds={each.type: each.threshold for each in found.types},
        unsure_from={each.type: each.unsure_from for each in bands if each.unsure_from is not None},
    )
    assert found.after.unsure_good is not None and found.after.unsure_good.count > 0
    for judged, by in ((bundle, rules), (write_bundle(bundle, found, tmp_path / "banded", version="2"), Rules())):
        with Session(judged) as session:
            verdicts = Inspector(session, rules=by).inspect_batch(list(frames(sorted(good.iterdir()))))
        assert found.after.unsure_good.count == sum(verdict.verdict == "unsure" for verdict in verdicts)


def test_without_good_parts_bad_ones_beside_their_defects_stand_in(bundle: Bundle, data: Path) -> None:
    found = decide(bundle, FrameRequest(data=[data], fold="val"), COSTS)
    assert found.good_parts == {"voc, beside defects": FRAMES} or set(found.good_parts.values()) == {FRAMES}
    assert any(note.startswith("no good part was given") and "stood in" in note for note in found.notes)
    assert found.before.false_rejects is not None
    assert found.before.false_rejects.of == FRAMES
    assert 0 < found.before.false_rejects.count < FRAMES  # three cells of ten are false alarms


def test_for_a_model_of_good_parts_whatever_is_wrong_is_one_type(
    bundle: Bundle, data: Path, good: Path, tmp_path: Path
) -> None:
    """The cells' first output fires in bright cells: it stands for a model that has one label."""
    manifest = msgspec.structs.replace(bundle.manifest, task="anomaly")
    anomaly = Bundle(bundle.path, manifest, bundle.digest)
    found = decide(anomaly, FrameRequest(data=[data], fold="val", good=[good]), dataclasses.replace(COSTS, review=0.1))
    first, *others = found.types
    assert first.miss.of == FRAMES and not first.kept
    assert first.unsure_from is not None
    assert all(each.kept == "no frame shows it" for each in others)
    for name, source in (("lot1_good", good), ("scratch", data)):  # a folder a class
        (tmp_path / "parts" / name).mkdir(parents=True)
        for path in sorted(source.rglob("*.[pj][np]g"))[:12]:
            shutil.copy(path, tmp_path / "parts" / name)
    found = decide(anomaly, FrameRequest(data=[tmp_path / "parts"], fold="all"), COSTS)
    assert found.bad_parts == 12 and found.good_parts["parts"] == 12


def _trained(folder: Path, data: str, *, held_share: float) -> Bundle:
    """A bundle whose report tells of a training, as the optimizer writes it."""
    made = nets.bundle(folder, nets.cell_detector())
    start = {"data": [f"elsewhere/{data}"], "held_share": held_share}
    (made.path / "report.json").write_text(json.dumps({"training": {"starts": [start]}}))
    return write_manifest(made.path, made.manifest)


def test_only_what_training_held_out_is_taken_where_the_report_says_so(tmp_path: Path) -> None:
    data = nets.write_cells_dataset(tmp_path / "parts", 120, fold="train")
    trained = _trained(tmp_path / "b", "parts", held_share=0.2)
    held = decide(trained, FrameRequest(data=[data], fold="train"), COSTS)
    assert "24 of 120 frames of parts" in held.frames_from
    aside, rest = hold_out(load_dataset(data, "train").samples, share=0.2)
    assert (held.bad_parts, len(aside), len(rest)) == (24, 24, 96)
    everything = decide(trained, FrameRequest(data=[data], fold="train", take="all"), COSTS)
    assert everything.bad_parts == 120
    assert any("trained on these frames" in note for note in everything.notes)


def test_what_a_bundle_was_trained_on_is_said_as_far_as_it_is_known(bundle: Bundle, tmp_path: Path) -> None:
    data = nets.write_cells_dataset(tmp_path / "parts", 30, fold="train")
    unknown = decide(bundle, FrameRequest(data=[data], fold="train"), COSTS)
    assert "doesn't say what it was trained on" in unknown.frames_from
    assert any("if the bundle was trained" in note for note in unknown.notes)
    foreign = decide(_trained(tmp_path / "b", "other", held_share=0.2), FrameRequest(data=[data], fold="train"), COSTS)
    assert foreign.frames_from == "all 30 frames of parts, fold train"
    assert not any("trained" in note for note in foreign.notes)


def test_the_new_bundle_differs_in_thresholds_and_version_only(
    bundle: Bundle, decision: ThresholdReport, tmp_path: Path
) -> None:
    made = write_bundle(bundle, decision, tmp_path / "new")
    new, old = open_bundle(tmp_path / "new").manifest, bundle.manifest
    assert made.manifest == new and new.version == "1.0.1"
    assert new.postprocess.params == {
        **old.postprocess.params, "thresholds": [each.threshold for each in decision.types]
    }  # fmt: skip
    same = {name: getattr(old, name) for name in ("version", "created_at", "postprocess", "files")}
    assert msgspec.structs.replace(new, **same) == old
    assert old.files.items() <= new.files.items()
    kept = msgspec.json.decode((made.path / "decision.json").read_bytes(), type=ThresholdReport)
    assert [each.threshold for each in kept.types] == [each.threshold for each in decision.types]


def test_the_page_shows_each_chosen_type_and_needs_no_other_file(decision: ThresholdReport, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", decision)
    html = (tmp_path / "page.html").read_text()
    assert not re.search("<(script|link|img)", html)
    assert html.count("<svg") == 2 + (decision.reliability is not None)
    text = re.sub("<[^>]*>", " ", html)
    assert all(f"{each.threshold:.3f}" in text for each in decision.types)
    assert "nan" not in text.lower().split()


def test_a_good_photo_counts_once_and_masks_beside_photos_are_none(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), _good_picture(1))
    found = gather_frames(bundle, FrameRequest(data=[data], fold="val", good=[tmp_path, tmp_path, data / "images"]))
    assert [Path(part).name for part in found.parts if ":" not in part] == ["a.jpg", "b.png"]


def test_what_cant_be_decided_is_said(bundle: Bundle, data: Path, decision: ThresholdReport, tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="good parts"):
        decide(bundle, FrameRequest(data=[data], fold="val", good=[tmp_path / "nowhere"]), COSTS)
    with pytest.raises(DatasetError, match="no fold 'test'"):
        decide(bundle, FrameRequest(data=[data], fold="test"), COSTS)
    few = nets.write_cells_dataset(tmp_path / "few", 3)
    with pytest.raises(DatasetError, match="too few frames"):
        decide(bundle, FrameRequest(data=[few], fold="val"), COSTS)
    write_bundle(bundle, decision, tmp_path / "there")
    with pytest.raises(InputError, match="stands at"):
        write_bundle(bundle, decision, tmp_path / "there")
    with pytest.raises(ConfigError, match="another folder"):
        write_bundle(bundle, decision, bundle.path, overwrite=True)


def test_thresholds_that_cost_more_are_written_only_if_forced(
    decision: ThresholdReport, bundle: Bundle, tmp_path: Path
) -> None:
    own = decision.before.cost
    assert own is not None
    assert check_gain(decision) is decision
    for field in ("after", "cross_fold"):
        worse = msgspec.structs.replace(
            decision, **{field: msgspec.structs.replace(getattr(decision, field), cost=own + 1.0)}
        )
        with pytest.raises(AccuracyGateError, match=r"cost more.* a part; got"):
            check_gain(worse)
        with pytest.raises(AccuracyGateError, match=r"costs that lead to 0\.50% false rejects"):
            check_gain(msgspec.structs.replace(worse, tolerated=0.005))
        made = write_bundle(bundle, check_gain(worse, force=True), tmp_path / field)
        assert b"forced: these thresholds cost" in made.file("decision.json").read_bytes()


def test_the_command_chooses_writes_and_prints(
    bundle: Bundle, data: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "decided"
    told = [str(bundle.path), "--data", str(data), "--fold", "val", "--good", str(good), "--miss-cost", "100"]
    more = ["--reject-cost", "1", "--out", str(out), "--config", str(tmp_path / "c.toml"), "--json"]
    assert main(["decide", *told, *more]) == 0
    said = msgspec.json.decode(capsys.readouterr().out, type=ThresholdReport)
    assert open_bundle(out).manifest.postprocess.params["thresholds"] == [each.threshold for each in said.types]
    assert (tmp_path / "decided.decision.html").is_file()
    assert main(["inspect", str(good), "--model", str(out), "--json"]) == 0
    verdicts = json.loads(capsys.readouterr().out)["inspections"]
    assert said.after.false_rejects is not None
    assert sum(not verdict["passed"] for verdict in verdicts) == said.after.false_rejects.count
    assert (tmp_path / "c.toml").read_text().count("=") >= len(LABELS)
    assert main(["decide", *told, *more]) == 1  # something stands there
    assert "stands at" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert main(["decide", *told, "--reject-cost", "1", "--page", str(out / "manifest.json" / "x.html")]) == 1
    assert "can't be written" in capsys.readouterr().err
    assert main(["decide", *told, "--reject-cost", "0"]) == 1
    assert "above 0" in capsys.readouterr().err
