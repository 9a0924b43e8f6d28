"""Ask a device to change to another recipe, and wait for the outcome."""

from __future__ import annotations

import secrets

from lineside_hub.config import HubConfig
from lineside_hub.fleet.device_commands import ask
from lineside_link.messages import RecipeAnswer, RecipeCommand
from lineside_link.topics import Topics
from lineside_runtime.errors import RecipeError


def change_recipe(config: HubConfig, device: str, recipe: str, *, timeout_s: float) -> RecipeAnswer:
    """Asks a device for a recipe.

    Args:
        config: The hub's: its broker, and who it is there.
        device: Name of the device.
        recipe: Name of one of the device's recipes.
        timeout_s: How long to wait for its answer.

    Returns:
        What runs now.

    Raises:
        ConfigError: The device's name can't be one.
        BrokerError: The broker can't be reached, or the device doesn't answer: it is away, or older than this command.
        RecipeError: It refused, and says why; what ran before still does.
    """
    answer = ask(
        config,
        device,
        RecipeCommand(id=secrets.token_hex(8), recipe=recipe),
        RecipeAnswer,
        topics=(Topics.recipe_command, Topics.recipe_answer),
        silence_s=timeout_s,
    )
    if answer.error is not None:
        raise RecipeError(f"{device}: {answer.error.message}", action=f"{answer.recipe or 'No recipe'} runs.")
    return answer
