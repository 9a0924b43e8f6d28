"""Rules from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside_agent.config import RecipeConfig, SimulatorCameraConfig, load_rules, rule_path
from lineside_models.verdict.rules import Rules
from lineside_runtime.errors import ConfigError, InputNotFoundError


def test_rules_are_those_of_the_table_that_a_hub_may_set(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        "[inspect]\nthreads = 2\nthresholds = { dent = 0.4 }\n[store]\nkeep_images = 'bad'\n"
    )
    assert load_rules(tmp_path / "c.toml") == Rules(thresholds={"dent": 0.4})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[inspect]\ntreshold = 0.4\n", "treshold"),
        ("[store]\nkeep_images = 'bad'\n", "no rules"),
        ("device = 'x'\n", "can't be set by a rules file"),
        ("[inspect", "not TOML"),
    ],
)
def test_a_file_that_a_hub_would_refuse_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_rules(tmp_path / "c.toml")
    assert caught.value.message.startswith(str(tmp_path / "c.toml"))


def test_the_path_of_a_rule_is_that_of_the_table_that_sets_it_last() -> None:
    recipe = RecipeConfig(name="small", inspect={"thresholds": {}, "unsure_from": {}})
    camera = SimulatorCameraConfig(name="top", inspect={"thresholds": {}})
    assert rule_path("thresholds", recipe=recipe, camera=camera) == "$.camera[top].inspect.thresholds"
    assert rule_path("unsure_from", recipe=recipe, camera=camera) == "$.recipe[small].inspect.unsure_from"
    assert rule_path("regions", recipe=recipe, camera=camera) == "$.inspect.regions"


def test_a_file_that_isnt_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"nowhere\.toml"):
        load_rules(tmp_path / "nowhere.toml")
