"""Changes of the recipe with real bundles and engines, also over a restart."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lineside_agent.config import (
    AgentConfig,
    FolderCameraConfig,
    InspectConfig,
    RecipeConfig,
    RecipeTrigger,
    inspect_of,
    parse_config,
)
from lineside_agent.deployment.artifacts.bundle import BundleArtifact
from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.runner import Deployment, Runner
from lineside_agent.deployment.slots import Slots
from lineside_agent.hub_client.no_hub import NoHub
from lineside_agent.hub_client.recipe_commands import RecipeCommands
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import load
from lineside_agent.inspection.pipeline import InspectionPipeline
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.line_io.events import RecipeRefused, RecipeRuns, SelectRecipe
from lineside_agent.line_io.verdict_reporter import VerdictReporter
from lineside_link.messages import BundleRef, Desired, RecipeAnswer, RecipeCommand, ResultRow, decode, encode
from lineside_models.frame import Frame
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import CameraError, ConfigError, RecipeError
from tests.peers.waiting import wait_for
from tests.worlds.bundles import make_bundle, shade

STRICT = RecipeConfig(name="strict", inspect={"confidence_threshold": 0.5})
LENIENT = RecipeConfig(
    name="lenient",
    number=7,
    inspect={"confidence_threshold": 0.95},
    trigger=RecipeTrigger(deadline_ms=30_000.0),
)
DOUBTFUL = shade(140)
"""Scores 0.88: a reject under `STRICT`, a pass under `LENIENT`."""


class RecipeAgent:
    """An updater with its recipes and a pipeline of one frame; `end` and `start` are a restart of the agent."""

    def __init__(self, folder: Path, factory: Bundle | None, recipes: tuple[RecipeConfig, ...]) -> None:
        self.folder = folder
        self.factory = factory
        self.configured = recipes
        self.prepared: list[str] = []
        self.camera_problem = ""
        self.start()

    def start(self) -> None:
        self.told: list[RecipeRuns | RecipeRefused] = []
        self.stop = threading.Event()
        self.active = ActiveBundle()
        self.recipes = Recipes(self.folder, self.configured)
        self.bundle = BundleArtifact(
            self.folder,
            slots=Slots(self.folder, None if self.factory is None else self.factory.path),
            active=self.active,
            inspect=lambda: InspectConfig(health_frames=1, health_timeout_s=0.2),
            fetch=NoHub().fetch,
            report=lambda *_: None,
            stop=self.stop,
            recipes=self.recipes,
            prepare=self.prepare,
        )
        self.updater = Runner(Deployment(self.bundle), stop=self.stop)
        self.recipes.attach(wake=self.updater.kick, tell=self.told.append)
        self.thread = threading.Thread(target=self.updater.run)
        self.thread.start()

    def prepare(self) -> None:
        if self.camera_problem and self.recipes.name == "lenient":
            raise CameraError(self.camera_problem)
        self.prepared.append(self.recipes.name)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(60.0)
        if (loaded := self.active.swap(None)) is not None:
            loaded.close()

    def ask(self, recipe: str | int) -> str:
        """Requests a recipe as a program does; returns why it cannot run, empty if it runs."""
        answers: list[str] = []
        self.recipes.select(SelectRecipe(recipe, "test", answers.append))
        wait_for(lambda: answers, what="an answer")
        return answers[0]

    def judge(self) -> ResultRow:
        wait_for(lambda: self.active.loaded is not None, what="a bundle")
        rows: list[ResultRow] = []
        shots = [Frame(image=DOUBTFUL, source="cam", sequence=0, part_id="p")]
        pipeline = InspectionPipeline(
            lambda: shots.pop() if shots else None,
            self.active,
            reporter=VerdictReporter([], lambda row, _: rows.append(row)),
            stop=self.stop,
        )
        pipeline.run()
        return rows[0]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("two") / "b", version="2.0.0")


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[RecipeAgent]]:
    """Agents whose folder, that of the test, is deleted after they have ended."""
    del tmp_path
    made: list[RecipeAgent] = []
    yield made
    for agent in made:
        agent.end()


def test_a_changeover_changes_the_verdict_and_the_record_says_by_which_recipe(
    agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle
) -> None:
    agents.append(agent := RecipeAgent(tmp_path, bundle, (STRICT, LENIENT)))
    first = agent.judge()
    assert (first.verdict, first.recipe) == ("reject", "strict")
    assert agent.ask("lenient") == ""
    second = agent.judge()
    assert (second.verdict, second.recipe) == ("pass", "lenient")
    assert agent.ask(1) == ""
    assert agent.judge().recipe == "strict"
    assert agent.told == [RecipeRuns("strict", 1), RecipeRuns("lenient", 7, deadline_s=30.0), RecipeRuns("strict", 1)]
    assert agent.prepared == ["lenient", "strict"]
    assert agent.recipes.status()["changeovers"] == 2


def test_parts_may_not_come_from_the_wish_on(agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle) -> None:
    agents.append(agent := RecipeAgent(tmp_path, bundle, (STRICT, LENIENT)))
    agent.judge()
    answers: list[str] = []
    agent.recipes.select(SelectRecipe("lenient", "test", answers.append))
    assert answers or agent.recipes.problem == "changing over to recipe lenient"
    wait_for(lambda: answers)
    assert agent.recipes.problem == ""


def test_line_is_told_the_recipe_and_its_gate_before_parts_may_come(tmp_path: Path) -> None:
    recipes = Recipes(tmp_path, (STRICT, LENIENT))
    told: list[tuple[type, str]] = []
    recipes.attach(wake=lambda: None, tell=lambda event: told.append((type(event), recipes.problem)))
    for end in (lambda made: recipes.done(made, 0.0), lambda made: recipes.failed(made, RecipeError("it can't run"))):
        recipes.select(SelectRecipe("lenient", "plc"))
        request = recipes.begin()
        assert request is not None
        end(request)
        assert recipes.problem == ""
    changing = "changing over to recipe lenient"
    assert told == [(RecipeRuns, ""), (RecipeRuns, changing), (RecipeRefused, changing)]


def test_unknown_recipe_that_was_requested_during_a_changeover_stays_a_fault(tmp_path: Path) -> None:
    recipes = Recipes(tmp_path, (STRICT, LENIENT))
    told: list[RecipeRuns | RecipeRefused] = []
    recipes.attach(wake=lambda: None, tell=told.append)
    recipes.select(SelectRecipe("lenient", "plc"))
    request = recipes.begin()
    assert request is not None
    recipes.select(SelectRecipe(9, "plc"))
    recipes.done(request, 0.0)
    assert isinstance(told[-1], RecipeRefused)
    assert "there is no recipe 9" in recipes.status()["recipe_problem"]
    recipes.select(SelectRecipe("lenient", "plc"))
    request = recipes.begin()
    assert request is not None
    recipes.done(request, 0.0)
    assert told[-1:] == [RecipeRuns("lenient", 7, deadline_s=30.0)]
    assert recipes.status()["recipe_problem"] is None


def test_the_chosen_recipe_survives_a_restart(agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle) -> None:
    agents.append(agent := RecipeAgent(tmp_path, bundle, (STRICT, LENIENT)))
    assert agent.ask("lenient") == ""
    agent.end()
    agent.start()
    assert agent.told == [RecipeRuns("lenient", 7, deadline_s=30.0)]
    assert agent.judge().verdict == "pass"


def test_a_recipe_that_was_chosen_and_is_gone_is_said_and_is_a_fault(
    agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle
) -> None:
    agents.append(agent := RecipeAgent(tmp_path, bundle, (STRICT, LENIENT)))
    assert agent.ask("lenient") == ""
    agent.end()
    agent.configured = (STRICT,)
    agent.start()
    assert [type(event) for event in agent.told] == [RecipeRuns, RecipeRefused]
    assert "there is no recipe 'lenient'" in agent.recipes.status()["recipe_problem"]
    assert agent.ask("strict") == ""
    assert agent.recipes.status()["recipe_problem"] is None


def test_an_unknown_recipe_is_refused_and_the_old_one_goes_on(
    agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle
) -> None:
    agents.append(agent := RecipeAgent(tmp_path, bundle, (STRICT, LENIENT)))
    assert agent.ask("nonsense").startswith("[2020] there is no recipe 'nonsense'")
    assert agent.told == [RecipeRuns("strict", 1)]  # who asked was told; the line need not stand
    agent.recipes.select(SelectRecipe(9, "plc"))
    assert isinstance(agent.told[-1], RecipeRefused)
    assert agent.judge().recipe == "strict"


def test_a_request_on_a_line_without_recipes_is_refused_in_a_whole_sentence(
    agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    agents.append(agent := RecipeAgent(tmp_path, bundle, ()))
    assert agent.ask("nonsense").startswith("[2020] there is no recipe 'nonsense'")
    assert "is refused, what ran before goes on: [2020]" in caplog.text


def test_a_recipe_with_a_bundle_of_its_own_runs_it_also_after_a_restart(
    agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle, other: Bundle
) -> None:
    own = RecipeConfig(name="own", bundle=other.path)
    agents.append(agent := RecipeAgent(tmp_path, bundle, (STRICT, own)))
    assert agent.judge().bundle == "bright-spots@1.0.0"
    assert agent.ask("own") == ""
    row = agent.judge()
    assert (row.bundle, row.recipe) == ("bright-spots@2.0.0", "own")
    agent.end()
    agent.start()
    assert agent.judge().bundle == "bright-spots@2.0.0"
    assert agent.ask("strict") == ""
    assert agent.judge().bundle == "bright-spots@1.0.0"


def test_a_recipe_with_a_bundle_of_its_own_needs_no_installed_one(
    agents: list[RecipeAgent], tmp_path: Path, other: Bundle
) -> None:
    agents.append(agent := RecipeAgent(tmp_path, None, (RecipeConfig(name="own", bundle=other.path),)))
    assert agent.judge().bundle == "bright-spots@2.0.0"


def test_an_update_waits_while_a_recipe_runs_its_own_bundle(
    agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle, other: Bundle
) -> None:
    own = RecipeConfig(name="own", bundle=other.path)
    agents.append(agent := RecipeAgent(tmp_path, bundle, (own, STRICT)))
    agent.judge()
    pushed = make_bundle(tmp_path / "pushed", version="3.0.0")
    agent.bundle._fetch = lambda ref, folder, *_: shutil.copytree(pushed.path, folder, dirs_exist_ok=True)
    ref = BundleRef(name="bright-spots", version="3.0.0", target="default/x.json", sha256=pushed.digest)
    agent.updater.post(DesiredChanged("group", Desired(epoch=1, gen=1, bundle=ref)))
    wait_for(lambda: agent.updater.waiting, what="the update waits")
    assert "recipe own runs a bundle of its own" in agent.updater.waiting
    assert agent.judge().bundle == "bright-spots@2.0.0"
    assert agent.ask("strict") == ""  # also while the update waits
    wait_for(lambda: agent.updater.machine.state == "active" and agent.updater.machine.gen == 1, what="updated")
    row = agent.judge()
    assert (row.bundle, row.recipe) == ("bright-spots@3.0.0", "strict")


def test_a_bundle_that_is_damaged_leaves_the_old_recipe(
    agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle
) -> None:
    (tmp_path / "empty").mkdir()
    broken = RecipeConfig(name="broken", bundle=tmp_path / "empty")
    agents.append(agent := RecipeAgent(tmp_path, bundle, (STRICT, broken)))
    agent.judge()
    assert "manifest.json" in agent.ask("broken")
    assert (agent.judge().recipe, agent.recipes.name) == ("strict", "strict")
    agent.end()
    agent.start()
    assert agent.judge().recipe == "strict"


def test_a_bundle_that_is_damaged_at_the_start_lets_nothing_pass_until_another_is_asked_for(
    agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle
) -> None:
    (tmp_path / "empty").mkdir()
    broken = RecipeConfig(name="broken", bundle=tmp_path / "empty")
    agents.append(agent := RecipeAgent(tmp_path, bundle, (broken, STRICT)))
    wait_for(lambda: agent.recipes.problem, what="said")
    assert agent.active.loaded is None
    assert agent.updater.machine.state == "active"  # nothing is wrong with what is installed
    assert "manifest.json" in agent.ask("broken")
    assert agent.ask("strict") == ""
    assert agent.judge().recipe == "strict"


def test_a_camera_that_shows_nothing_leaves_the_old_recipe(
    agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle
) -> None:
    agents.append(agent := RecipeAgent(tmp_path, bundle, (STRICT, LENIENT)))
    agent.judge()
    agent.camera_problem = "dark"
    assert agent.ask("lenient").startswith("[2009] dark")
    assert agent.judge().recipe == "strict"
    assert agent.prepared == ["strict"]  # and its camera is as it was


# -- configuration -------------------------------------------------------------------------------------------------

HEAD = 'device = "c"\nfolder = "state"\nbundle = "b"\n'
CAMERA = '[camera]\ntype = "v4l2"\n'
TRIGGER = "[trigger]\ndeadline_ms = 100\n[gate]\ndelay_ms = 300\n"


def parse(text: str, camera: str = CAMERA) -> AgentConfig:
    return parse_config((HEAD + camera + text).encode(), Path("/etc/lineside"))


def test_recipes_are_read_and_their_bundles_lie_beside_the_file() -> None:
    text = (
        f'{TRIGGER}[[recipe]]\nname = "a"\nbundle = "bundles/a"\n[recipe.inspect]\nconfidence_threshold = 0.4\n'
        '[recipe.camera]\nexposure_us = 800\n[recipe.gate]\ndelay_ms = 500\n[[recipe]]\nname = "b"\nnumber = 9\n'
        "[recipe.camera]\nexposure_us = 900\n[recipe.trigger]\ndeadline_ms = 250\n"
    )
    first, second = parse(text).recipe
    assert (first.name, first.bundle, first.camera.exposure_us) == ("a", Path("/etc/lineside/bundles/a"), 800.0)
    assert (second.number, second.gate) == (9, None)
    assert (first.trigger.deadline_ms, second.trigger.deadline_ms) == (None, 250.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[recipe]]\nname = "a"\n[[recipe]]\nname = "a"\n', "two have one name"),
        ('[[recipe]]\nname = "a"\nnumber = 2\n[[recipe]]\nname = "b"\n', "two have one number"),
        ('[[recipe]]\nname = "a b"\n', r"\$\.recipe\[0\]\.name"),
        ('[[recipe]]\nname = "a"\n[recipe.inspect]\nfps = 3\n', r"\$\.recipe\[a\]\.inspect\.fps is not a known key"),
        ('[[recipe]]\nname = "a"\n[recipe.inspect]\nmin_inside = 3\n', r"\$\.recipe\[a\]\.inspect\.min_inside"),
        ('[[recipe]]\nname = "a"\n[recipe.camera]\ngain_db = 3\n', r"\$\.recipe\[a\]\.camera\.gain_db"),
        ('[[recipe]]\nname = "a"\n[recipe.camera]\ngain = 3\n[[recipe]]\nname = "b"\n', "some set gain and others"),
        ('[[recipe]]\nname = "a"\n[recipe.gate]\ndelay_ms = 300\n', r"\$\.recipe\[a\]\.gate needs \$\.gate"),
        (f'{TRIGGER}[[recipe]]\nname = "a"\n[recipe.gate]\ncounts = 300\n', "delay_ms alone"),
        (f'{TRIGGER}[[recipe]]\nname = "a"\n[recipe.gate]\ndelay_ms = 30\n', r"\$\.trigger\.deadline_ms, 100"),
        ('[[recipe]]\nname = "a"\n[recipe.trigger]\ndeadline_ms = 300\n', r"\$\.recipe\[a\]\.trigger needs a trigger"),
        (f'{TRIGGER}[[recipe]]\nname = "a"\n[recipe.trigger]\ndeadline_ms = 0\n', r"trigger\.deadline_ms"),
        (
            f'{TRIGGER}[[recipe]]\nname = "a"\n[recipe.trigger]\ndeadline_ms = 301\n',
            r"\$\.gate\.delay_ms.*\[a\]\.trigger",
        ),
        (
            f'{TRIGGER}[[recipe]]\nname = "a"\n[recipe.gate]\ndelay_ms = 500\n[recipe.trigger]\ndeadline_ms = 501\n',
            r"\[a\]\.gate\.delay_ms.*\[a\]\.trigger\.deadline_ms, 501",
        ),
    ],
)
def test_recipes_that_do_not_fit_are_refused_with_their_path(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


def answered(answers: list[RecipeAnswer], count: int) -> bool:
    return len(answers) >= count


def test_a_command_of_the_hub_that_is_replayed_changes_nothing(
    agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle
) -> None:
    agents.append(agent := RecipeAgent(tmp_path, bundle, (STRICT, LENIENT)))
    wait_for(lambda: agent.active.loaded is not None, what="a bundle")
    answers: list[RecipeAnswer] = []
    commands = RecipeCommands(
        agent.recipes, allowed=True, publish=lambda data: answers.append(decode(data, RecipeAnswer))
    )
    for number, (command, recipe) in enumerate((("1", "lenient"), ("2", "strict"), ("1", "lenient"))):
        commands.received("cmd", encode(RecipeCommand(id=command, recipe=recipe)))
        wait_for(functools.partial(answered, answers, number + 1), what="an answer")
    assert [answer.id for answer in answers] == ["1", "2", "1"]
    assert agent.recipes.name == "strict"


def test_an_unknown_name_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipes(tmp_path, (STRICT, LENIENT)).find("other")
    assert (caught.value.code, caught.value.expected) == (2020, "strict (1), lenient (7)")


def test_a_type_that_the_bundle_has_not_is_named_with_the_recipe_that_sets_it(
    agents: list[RecipeAgent], tmp_path: Path, bundle: Bundle
) -> None:
    typo = RecipeConfig(name="typo", inspect={"thresholds": {"brigth": 0.5}})
    agents.append(agent := RecipeAgent(tmp_path, bundle, (STRICT, typo)))
    assert "$.recipe[typo].inspect.thresholds: the bundle has no type 'brigth'" in agent.ask("typo")


def test_a_variant_that_the_bundle_has_not_is_named_in_its_recipe(tmp_path: Path, other: Bundle) -> None:
    wrong = RecipeConfig(name="small", inspect={"variant": "onnx-int4"})
    with pytest.raises(ConfigError, match=r"\$\.recipe\[small\]\.inspect\.variant: .*'onnx-int4'"):
        load("a", other, inspect_of(InspectConfig(), wrong), recipe=wrong, measured=tmp_path)


def test_whether_a_frame_shows_a_part_is_judged_by_the_rules_of_its_recipe_and_camera(
    tmp_path: Path, other: Bundle
) -> None:
    even = RecipeConfig(name="even", inspect={"min_contrast": 0.0})
    dim = FolderCameraConfig(name="dim", path=tmp_path, inspect={"brightness": [100, 200]})
    loaded = load("a", other, inspect_of(InspectConfig(), even), recipe=even, cameras=(dim,), measured=tmp_path)
    even_frame = Frame(image=np.full((96, 96), 30, np.uint8))
    problems = [loaded.inspector_of(source).frame_problem(even_frame) for source in ("dim", "other")]
    loaded.close()
    assert problems == [
        "the frame is too dark: mean grey value 30, expected 100 to 200; look at light and exposure",
        "",
    ]
