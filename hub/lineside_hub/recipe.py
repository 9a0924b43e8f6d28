"""`change_recipe`: asks a device, over the broker, to change over to another recipe, and waits for how it went.

It is said with QoS 0 and not retained: a device that is away must not change over hours later, when nobody looks. So it
is said again until the device answers, and has an id by which the device carries it out once.
"""

from __future__ import annotations

import queue
import secrets
import time

from lineside_hub.config import HubConfig
from lineside_link.client import LinkClient
from lineside_link.messages import RecipeAnswer, RecipeCommand, decode, encode
from lineside_link.topics import Topics, check_name
from lineside_runtime.errors import BrokerError, RecipeError

SAY_EVERY_S = 1.0


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
    topics = Topics(config.link.site)
    check_name(device, "device")
    asked = RecipeCommand(id=secrets.token_hex(8), recipe=recipe)
    client = LinkClient(config.link, f"lineside-hub-{config.link.site}-recipe-{asked.id}")
    heard: queue.Queue[RecipeAnswer] = queue.Queue()
    client.subscribe(topics.recipe_answer(device), lambda _, data: heard.put(decode(data, RecipeAnswer)), qos=0)
    client.start()
    try:
        answer = _answer(client, topics.recipe_command(device), asked, heard, time.monotonic() + timeout_s)
    finally:
        client.close()
    if answer is None:
        reached = client.last_error is None
        raise BrokerError(
            f"{device} doesn't answer" if reached else f"the broker can't be reached: {client.last_error}",
            expected=f"an answer within {timeout_s:g} s",
            action="`lineside fleet show` says whether it is there; an older agent knows no such command.",
        )
    if answer.error is not None:
        raise RecipeError(f"{device}: {answer.error.message}", action=f"{answer.recipe or 'No recipe'} runs.")
    return answer


def _answer(
    client: LinkClient, topic: str, asked: RecipeCommand, heard: queue.Queue[RecipeAnswer], until_s: float
) -> RecipeAnswer | None:
    while (left_s := until_s - time.monotonic()) > 0:
        if not client.wait_connected(min(left_s, SAY_EVERY_S)):
            continue
        client.publish(topic, encode(asked), qos=0)
        say_again_s = min(until_s, time.monotonic() + SAY_EVERY_S)
        while (wait_s := say_again_s - time.monotonic()) > 0:
            try:
                answer = heard.get(timeout=wait_s)
            except queue.Empty:
                break
            if answer.id == asked.id:
                return answer
    return None
