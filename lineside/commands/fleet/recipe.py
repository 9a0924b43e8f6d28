"""``lineside fleet recipe``."""

from __future__ import annotations

import argparse

from lineside.console import inform, print_json
from lineside.extras import needs
from lineside.options import add_hub, add_json

TIMEOUT_S = 60.0


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    recipe = actions.add_parser(
        "recipe",
        help="change the recipe of a device",
        description="Asks a device to change over to one of the recipes in its agent.toml, between two parts, and "
        "waits until it runs. Parts that arrive meanwhile are rejected. The device must be connected, and its "
        "agent.toml must contain recipe_from_hub = true.",
    )
    recipe.add_argument("device", help="its name")
    recipe.add_argument("recipe", help="name of the recipe")
    recipe.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="S", help="seconds to wait (default: 60)")
    add_hub(recipe)
    add_json(recipe)
    recipe.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Sends the command and prints the running recipe."""
    with needs("convert"):
        from lineside_hub.config import folder_config
        from lineside_hub.fleet.device_commands import change_recipe
        from lineside_hub.fleet.listing import check_known
    config = folder_config(options.hub)
    check_known(config, options.device)
    answer = change_recipe(config, options.device, options.recipe, timeout_s=options.timeout)
    if options.json:
        print_json({"device": options.device, "recipe": answer.recipe})
    else:
        inform(f"{options.device}: recipe {answer.recipe} runs")
    return 0
