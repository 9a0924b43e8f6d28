"""``lineside agent recipe``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lineside.console import inform, print_json, show
from lineside.options import Actions, add_agent_config, add_json


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    recipe = actions.add_parser(
        "recipe",
        help="list the recipes, or change over to another product",
        description="Without a name lists the recipes of the agent on this machine. With a name changes over between "
        "two parts, and waits until that recipe runs. Parts that arrive meanwhile are rejected. The agent's "
        "configuration needs [[recipe]] tables.",
    )
    recipe.add_argument("name", nargs="?", metavar="NAME", help="the recipe of the next product")
    add_agent_config(recipe)
    add_json(recipe)
    recipe.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Lists the recipes, or sends the request to the agent's local socket."""
    from lineside_agent.config import read_config
    from lineside_agent.inspection.recipes import Recipes
    from lineside_agent.line_io.local import TriggerRequest, ask
    from lineside_runtime.errors import RecipeError, RequestError

    config = read_config(options.config)
    if options.name is None:
        return _list(options, config.folder, [recipe.name for recipe in config.recipe])
    Recipes(config.folder, config.recipe).find(options.name)
    try:
        answer = ask(config.folder, TriggerRequest("recipe", recipe=options.name))
    except RequestError as error:
        raise RecipeError(error.message, action="The previous recipe continues; see the agent's log.") from error
    if options.json:
        print_json(answer)
    else:
        inform(f"recipe {answer['recipe']} runs")
    return 0


def _list(options: argparse.Namespace, folder: Path, names: list[str]) -> int:
    path = folder / "status.json"
    status: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    running, problem = status.get("recipe"), status.get("recipe_problem")
    if options.json:
        print_json({"recipe": running, "recipes": names, "problem": problem})
        return 0
    for name in names:
        show(f"{'*' if name == running else ' '} {name}")
    if not names:
        inform("this agent's configuration has no recipes")
    if problem:
        inform(problem)
    return 0
