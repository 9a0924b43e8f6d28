"""What a person did to the model's boxes, and which fold a frame goes into."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_hub.relabel import folds
from lineside_hub.relabel.box_changes import NOTHING, compare, confusion, count
from lineside_runtime.errors import ConfigError, DatasetError

KINDS = st.sampled_from(["pit", "scratch", "dent"])
SIDES = st.integers(0, 30)
BOXES = st.tuples(SIDES, SIDES, st.integers(1, 30), st.integers(1, 30)).map(
    lambda box: (float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3]))
)
MODEL = st.lists(st.tuples(KINDS, BOXES).map(lambda one: (one[0], 0.5, *one[1])), max_size=6)
PERSON = st.lists(st.tuples(KINDS, BOXES).map(lambda one: (one[0], *one[1])), max_size=6)


@settings(deadline=None)
@given(MODEL, PERSON)
def test_every_box_of_both_is_told_of_once(model: list[Any], person: list[Any]) -> None:
    changes = compare(model, person)
    told = [change.model for change in changes if change.model is not None]
    assert collections.Counter(told) == collections.Counter(model)
    told_of_person = [change.person for change in changes if change.person is not None]
    assert collections.Counter(told_of_person) == collections.Counter(person)
    assert sum(count(changes).values()) == len(changes)
    table = confusion(changes)
    assert sum(sum(row.values()) for row in table.values()) == len(changes)
    assert {name: sum(row.values()) for name, row in table.items() if name != NOTHING} == collections.Counter(
        box[0] for box in model
    )


def test_a_box_has_one_fate() -> None:
    model = [
        ("pit", 0.9, 0, 0, 10, 10),
        ("pit", 0.8, 20, 0, 30, 10),
        ("pit", 0.7, 40, 0, 50, 10),
        ("pit", 0.6, 60, 0, 70, 10),
    ]
    person = [
        ("pit", 0, 0, 10, 10.4),
        ("pit", 20, 0, 30, 13),
        ("dent", 40, 0, 50, 10),
        ("pit", 90, 0, 95, 9),
    ]
    assert [change.kind for change in compare(model, person)] == ["kept", "moved", "type", "deleted", "added"]


def test_boxes_of_one_type_are_paired_before_those_of_two() -> None:
    model = [("pit", 0.9, 0, 0, 10, 10)]
    person = [("dent", 0, 0, 10, 10), ("pit", 0, 0, 10, 12)]
    assert {change.kind for change in compare(model, person)} == {"moved", "added"}


def test_a_group_is_the_part_or_what_the_pattern_finds() -> None:
    assert folds.group_of("L7-3", "") == "L7-3"
    assert folds.group_of("L7-3", r"^(L\d+)-") == "L7"
    assert folds.group_of("L7-3", r"^L\d+") == "L7"
    assert folds.group_of("other", r"^(L\d+)-") == "other"
    assert folds.group_of("abc", "(x)?") == "abc", "a pattern that finds nothing groups nothing"
    with pytest.raises(ConfigError):
        folds.check_pattern("(")


@given(st.lists(st.integers(0, 20).map(str), min_size=2, max_size=40), st.floats(0.05, 0.95))
def test_a_group_has_one_fold_that_more_images_never_change(lots: list[str], share: float) -> None:
    groups = {f"{number}.png": lot for number, lot in enumerate(lots)}
    half = dict(list(groups.items())[: len(groups) // 2])
    first = folds.assign(half, {}, val_share=share)
    both = folds.assign(groups, first, val_share=share)
    assert first.items() <= both.items()
    fold_of_group: dict[str, set[str]] = collections.defaultdict(set)
    for image, fold in both.items():
        fold_of_group[groups[image]].add(fold)
    assert all(len(found) == 1 for found in fold_of_group.values())
    fresh = folds.assign(groups, {}, val_share=share)
    if len(set(groups.values())) > 1:
        assert set(fresh.values()) == {"train", "val"}


def test_about_the_share_of_the_groups_that_was_asked_for_is_in_val() -> None:
    groups = {f"image-{number}": f"lot-{number}" for number in range(2000)}
    found = collections.Counter(folds.assign(groups, {}, val_share=0.2).values())
    assert found["val"] == pytest.approx(400, abs=60)
    assert set(folds.assign(groups, {}, val_share=0.0).values()) == {"train"}


def test_a_damaged_table_of_folds_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    assert folds.read(path) == {}
    path.write_bytes(folds.encode({"a.png": "val"}, {"a.png": 'lot, "7"'}))
    assert folds.read(path) == {"a.png": "val"}
    path.write_text("image,fold\na.png,\n")
    with pytest.raises(DatasetError, match="line 2"):
        folds.read(path)
