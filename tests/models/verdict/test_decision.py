from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lineside_models.postprocess import Candidates
from lineside_models.verdict.decision import VerdictPolicy
from lineside_models.verdict.rules import Rules, read_rules
from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import ConfigError
from tests.models.small_detector import LABELS, detector_bundle

SIZE = (100, 200)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Two types: ``bright`` from 0.5, ``dark`` from 0.9."""
    folder: Path = tmp_path_factory.mktemp("deciding")
    return detector_bundle(folder / "b").manifest


def _with(manifest: Manifest, **params: Any) -> Manifest:
    how = msgspec.structs.replace(manifest.postprocess, params={**manifest.postprocess.params, **params})
    return msgspec.structs.replace(manifest, postprocess=how)


def _found(*each: tuple[str, float, tuple[float, float, float, float]]) -> Candidates:
    return Candidates(
        np.array([box for _, _, box in each], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in each], np.float32),
        np.array([LABELS.index(name) for name, _, _ in each], np.int64),
    )


BOX = (10.0, 10.0, 30.0, 20.0)


def test_without_rules_the_bundles_thresholds_hold_by_type(manifest: Manifest) -> None:
    decider = VerdictPolicy(manifest)
    assert decider.decide(_found(("bright", 0.6, BOX), ("dark", 0.6, BOX)), SIZE).verdict == "bad"
    assert decider.decide(_found(("dark", 0.6, BOX)), SIZE).verdict == "good"
    assert decider.decide(_found(), SIZE).verdict == "good"


def test_a_threshold_by_type_comes_before_one_for_all(manifest: Manifest) -> None:
    decider = VerdictPolicy(manifest, Rules(confidence_threshold=0.9, thresholds={"dark": 0.4}))
    decision = decider.decide(_found(("bright", 0.8, BOX), ("dark", 0.5, BOX)), SIZE)
    assert [found.type for found in decision.detections] == ["dark"]


def test_a_candidate_in_its_band_makes_the_part_unsure_and_a_defect_bad_whatever_else_is_doubtful(
    manifest: Manifest,
) -> None:
    decider = VerdictPolicy(manifest, Rules(unsure_from={"dark": 0.3}))
    decision = decider.decide(_found(("dark", 0.6, BOX), ("bright", 0.4, BOX), ("dark", 0.2, BOX)), SIZE)
    assert decision.verdict == "unsure"
    assert [(found.type, round(found.score, 2)) for found in decision.doubtful] == [("dark", 0.6)]
    assert decision.detections == ()
    assert decision.near_miss == pytest.approx(0.4 / 0.5)
    decider = VerdictPolicy(manifest, Rules(unsure_from={"*": 0.1}))
    decision = decider.decide(_found(("bright", 0.7, BOX), ("dark", 0.6, BOX)), SIZE)
    assert decision.verdict == "bad"
    assert [found.type for found in decision.doubtful] == ["dark"]


def test_the_bundles_band_holds_until_somebody_else_sets_the_threshold(manifest: Manifest) -> None:
    banded = _with(manifest, unsure_from=[0.2, 0.2])
    doubt = _found(("bright", 0.3, BOX))
    assert VerdictPolicy(banded).decide(doubt, SIZE).verdict == "unsure"
    assert VerdictPolicy(banded, Rules(confidence_threshold=0.9)).decide(doubt, SIZE).verdict == "good"
    assert VerdictPolicy(banded, Rules(thresholds={"bright": 0.6})).decide(doubt, SIZE).verdict == "good"
    assert VerdictPolicy(banded, Rules(thresholds={"dark": 0.6})).decide(doubt, SIZE).verdict == "unsure"


def test_the_near_miss_is_the_largest_share_of_its_threshold_that_found_no_defect(manifest: Manifest) -> None:
    decider = VerdictPolicy(manifest)
    assert decider.decide(_found(("dark", 0.8, BOX), ("bright", 0.2, BOX)), SIZE).near_miss == pytest.approx(0.8 / 0.9)
    assert decider.decide(_found(("bright", 0.8, BOX)), SIZE).near_miss == 0.0
    assert decider.decide(_found(), SIZE).near_miss == 0.0


def test_what_is_too_small_in_pixels_or_millimetres_doesnt_count(manifest: Manifest) -> None:
    def verdict(name: str, **rules: Any) -> str:
        return VerdictPolicy(manifest, Rules(**rules)).decide(_found((name, 0.99, BOX)), SIZE).verdict

    assert verdict("bright", min_size_px={"bright": 21.0}) == "good"
    assert verdict("dark", min_size_px={"bright": 21.0}) == "bad"
    assert verdict("bright", min_size_px={"*": 20.0}) == "bad"
    for side_mm, wanted in ((0.5, "bad"), (0.51, "good")):  # 20 pixels are half a millimetre
        assert verdict("bright", min_size_mm={"bright": side_mm}, px_per_mm=40.0) == wanted


def test_a_defect_that_lies_mostly_outside_the_region_doesnt_count(manifest: Manifest) -> None:
    left = {"kind": "inspect", "polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}
    decider = VerdictPolicy(manifest, read_rules({"regions": [left]}))
    assert decider.decide(_found(("bright", 0.9, (80, 10, 110, 30))), SIZE).verdict == "bad"
    assert decider.decide(_found(("bright", 0.9, (90, 10, 130, 30))), SIZE).verdict == "good"
    any_of_it = VerdictPolicy(manifest, read_rules({"regions": [left], "min_inside": 0.01}))
    assert any_of_it.decide(_found(("bright", 0.9, (90, 10, 130, 30))), SIZE).verdict == "bad"


AWAY = {"kind": "inspect", "units": "px", "polygon": [[900, 900], [990, 900], [990, 990]]}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"thresholds": {"brigth": 0.3}}, "no type 'brigth'"),
        ({"unsure_from": {"brigth": 0.3}}, "no type 'brigth'"),
        ({"min_size_px": {"brigth": 3}}, "no type 'brigth'"),
        (
            {"regions": [{"kind": "ignore", "polygon": [[0, 0], [1, 0], [1, 1]], "types": ["brigth"]}]},
            "no type 'brigth'",
        ),
        ({"unsure_from": {"bright": 0.6}}, r"\$\.unsure_from\.bright; expected at most its threshold, 0\.5"),
        ({"regions": [AWAY]}, "outside the frame"),  # even where nothing was found
        ({"tresholds": {}}, "tresholds"),
        ({"thresholds": {"bright": 1.5}}, "thresholds"),
        ({"min_size_mm": {"bright": 0.1}}, "px_per_mm"),
        ({"confidence_threshold": 0.3, "thresholds": {"*": 0.4}}, "give one"),
        ({"slicing": {"side_px": 4}}, "side_px"),
        ({"slicing": "of"}, "slicing"),
    ],
)
def test_rules_that_do_not_fit_or_are_out_of_range_are_refused(
    manifest: Manifest, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        VerdictPolicy(manifest, read_rules(given)).decide(_found(), SIZE)


def test_a_model_with_more_classes_than_labels_is_refused(manifest: Manifest) -> None:
    found = Candidates(np.array([BOX], np.float32), np.array([0.9], np.float32), np.array([2]))
    with pytest.raises(ConfigError, match="at least 3 labels"):
        VerdictPolicy(manifest).decide(found, SIZE)
