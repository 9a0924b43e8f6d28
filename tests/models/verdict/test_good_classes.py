from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from lineside_models.inspection import Verdict
from lineside_models.postprocess import decode
from lineside_models.preprocess import Letterbox
from lineside_models.verdict.decision import VerdictPolicy
from lineside_models.verdict.good_classes import names_good_part, rule_of, with_good_classes
from lineside_models.verdict.rules import BUNDLES_OWN, Rules, read_rules
from lineside_runtime.bundle import Manifest, Postprocess, Preprocess
from lineside_runtime.errors import ConfigError

SIZE = (60, 100)
WHOLE = Letterbox(1.0, 1.0, 100, 60, padded=(64, 104))


def classifier(*labels: str, **params: Any) -> Manifest:
    return Manifest(
        name="parts",
        version="1",
        task="classification",
        created_at="2026-01-01T00:00:00Z",
        labels=labels,
        inputs=(),
        outputs=(),
        preprocess=Preprocess(input="image", colour="grey", mean=(0.0,), std=(1.0,)),
        postprocess=with_good_classes(Postprocess(name="classification", params=params), labels),
        variants=(),
    )


def judged(manifest: Manifest, *shares: float, rules: Rules = BUNDLES_OWN) -> tuple[Verdict, list[str]]:
    """Returns the verdict on a frame whose classes have these probabilities, and what it is about."""
    logits = {"logits": np.log(np.array([shares], np.float32))}
    decider = VerdictPolicy(manifest, rules)
    (found,) = decode(logits, manifest.postprocess, [WHOLE], least_score=decider.least_score)
    decision = decider.decide(found, SIZE)
    return decision.verdict, [each.type for each in decision.detections or decision.doubtful]


def test_a_class_of_good_parts_is_told_by_its_name() -> None:
    for name in ("good", "GOOD", "ok", "OK parts"[:2], "MT_Free", "defect-free", "no_defect", "normal", "io"):
        assert names_good_part(name), name
    for name in ("not_ok", "nok", "bad", "no good", "goods damaged", "scratch", "not free", "nio", "freed"):
        assert not names_good_part(name), name


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    "rules",
    [
        {"regions": [{"kind": "inspect", "polygon": [[0, 0], [0.4, 0], [0.4, 1], [0, 1]]}]},
        {"regions": [{"kind": "ignore", "polygon": [[0, 0], [0.6, 0], [0.6, 1], [0, 1]]}]},
        {"min_size_px": {"*": 200}},
    ],
)
def test_rules_for_boxes_that_leave_the_whole_frame_out_pass_no_part(rules: dict[str, Any], activation: str) -> None:
    manifest = classifier("bad", "good", activation=activation)
    assert judged(manifest, 0.8, 0.2, rules=read_rules({**rules, "confidence_threshold": 0.4})) == ("unsure", ["bad"])
    most = {
        "confidence_threshold": 0.4,
        "regions": [{"kind": "ignore", "polygon": [[0, 0], [0.1, 0], [0.1, 1], [0, 1]]}],
    }
    assert judged(manifest, 0.8, 0.2, rules=read_rules(most))[0] == "bad"


def test_a_part_of_the_class_good_passes_and_one_that_is_likeliest_a_defect_never() -> None:
    assert judged(classifier("bad", "good"), 0.48, 0.52) == ("good", [])
    assert judged(classifier("bad", "good"), 0.52, 0.48) == ("bad", ["bad"])
    assert judged(classifier("bad", "good", good=[]), 0.2, 0.8) == ("bad", ["good"])  # as the caller says
    three = classifier("dent", "good", "scratch")
    assert judged(three, 0.36, 0.30, 0.34) == ("unsure", ["dent"])  # no score reaches its threshold
    assert judged(three, 0.33, 0.37, 0.30) == ("good", [])
    assert judged(classifier("dent", "scratch", "hole", none_of_them="good"), 0.4, 0.3, 0.3) == ("good", [])


def test_a_classifier_of_defects_alone_passes_nothing() -> None:
    manifest = classifier("dent", "scratch", "hole")
    assert judged(manifest, 0.4, 0.3, 0.3) == ("unsure", ["dent"])
    assert judged(manifest, 0.8, 0.1, 0.1) == ("bad", ["dent"])
    assert judged(manifest, 0.8, 0.1, 0.1, rules=Rules(confidence_threshold=0.9)) == ("unsure", ["dent"])
    many = classifier(*(f"type{number}" for number in range(1000)))
    assert judged(many, *([0.001] * 1000)) == ("unsure", [])


def test_a_threshold_that_somebody_set_decides_where_there_is_a_class_of_good_parts_but_makes_none_a_defect() -> None:
    manifest = classifier("dent", "good")
    assert judged(manifest, 0.7, 0.3, rules=Rules(confidence_threshold=0.8)) == ("good", [])
    assert judged(manifest, 0.7, 0.3, rules=Rules(thresholds={"dent": 0.8})) == ("good", [])
    assert judged(classifier("dent", "good", thresholds=[0.8, 0.5]), 0.7, 0.3) == ("good", [])
    assert judged(manifest, 0.85, 0.15, rules=Rules(confidence_threshold=0.8)) == ("bad", ["dent"])
    assert judged(manifest, 0.1, 0.9, rules=Rules(confidence_threshold=0.3)) == ("good", [])
    for key, rules in (
        ("thresholds", Rules(thresholds={"good": 0.5})),
        ("unsure_from", Rules(unsure_from={"good": 0.5})),
    ):
        with pytest.raises(ConfigError, match=rf"\$\.inspect\.{key}\.good; .* means a good part"):
            VerdictPolicy(manifest, rules, where="$.inspect.{}".format)


def test_a_model_without_such_a_name_stays_as_it_is_and_classes_that_it_doesnt_have_are_refused() -> None:
    how = Postprocess(name="classification")
    assert with_good_classes(how, ("dent", "hole")) is how
    with pytest.raises(ConfigError, match="good class 'fine'"):
        with_good_classes(how, ("a", "b"), ["fine"])
    with pytest.raises(ConfigError, match="at least one class that is a defect"):
        with_good_classes(how, ("a", "b"), ["a", "b"])
    with pytest.raises(ConfigError, match="a classifier"):
        with_good_classes(Postprocess(name="yolov8"), ("a", "b"), ["a"])


@pytest.mark.parametrize("params", [{}, {"activation": "sigmoid"}, {"first_class": 1}, {"good": [0, 1]}])
def test_a_classifier_that_would_pass_every_part_is_refused_unless_somebody_says_which_are_defects(
    params: dict[str, Any],
) -> None:
    how = Postprocess(name="classification", params=params)
    with pytest.raises(ConfigError, match=r"every class .*--good-class.*--no-good-class.*\.toml file.*good = \[0\]"):
        with_good_classes(how, ("good", "ok"))
    assert with_good_classes(how, ("good", "ok"), ["ok"]).params["good"] == [1]
    assert with_good_classes(how, ("good", "ok"), []).params["good"] == []
    stated = msgspec.structs.replace(how, params={**params, "good": [0]})
    assert with_good_classes(stated, ("good", "ok")) is stated


def test_the_background_is_a_good_part_and_classes_that_dont_exclude_each_other_pass_where_none_is_found() -> None:
    manifest = classifier("dent", "scratch", first_class=1)
    assert judged(manifest, 0.5, 0.3, 0.2) == ("good", [])
    assert judged(manifest, 0.3, 0.4, 0.3) == ("unsure", ["dent"])
    assert judged(classifier("dent", "scratch", activation="sigmoid"), 0.12, 0.27) == ("good", [])


def test_the_rule_is_said_in_words() -> None:
    with_good, without = (
        with_good_classes(Postprocess(name="classification"), (name, "bad")) for name in ("good", "dent")
    )
    assert rule_of(with_good, ("good", "bad")).startswith("A part passes if good is the likeliest class")
    assert "unsure and does not pass" in rule_of(without, ("dent", "bad"))


def test_a_part_on_which_a_defect_was_not_inspected_is_no_good_part() -> None:
    manifest = classifier("dent", "good")
    top_left = read_rules({"regions": [{"kind": "inspect", "polygon": [[0, 0], [0.1, 0], [0.1, 0.1]]}]})
    assert judged(manifest, 0.9, 0.1, rules=top_left) == ("unsure", ["dent"])
