"""Send a command to a device until it has given its final answer.

The command is sent with QoS 0 and not retained (ADR 0017): an offline device must not execute it hours later, when
nobody expects that. It is repeated each second, and its id lets the device execute it once.
"""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias, TypeVar

from lineside_hub.config import HubConfig
from lineside_link.client.client import LinkClient
from lineside_link.messages import (
    LogAnswer,
    LogCommand,
    RecipeAnswer,
    RecipeCommand,
    TimeAnswer,
    TimeCommand,
    decode,
    encode,
)
from lineside_link.topics import Topics, check_name
from lineside_runtime.errors import BrokerError, RecipeError, RequestError

REPEAT_S = 1.0

Command: TypeAlias = LogCommand | RecipeCommand | TimeCommand

A = TypeVar("A", LogAnswer, RecipeAnswer, TimeAnswer)


class TopicOf(Protocol):
    """A method of `Topics` that takes a device."""

    def __call__(self, topics: Topics, device: str, /) -> str:
        """Returns a device's topic."""
        ...


def ask(
    config: HubConfig,
    device: str,
    command: Command,
    kind: type[A],
    *,
    topics: tuple[TopicOf, TopicOf],
    silence_s: float,
    is_last: Callable[[A], bool] = lambda _: True,
) -> A:
    """Sends a command and waits for the final answer.

    Args:
        silence_s: How long to wait for each answer.
        is_last: Called with each answer; returns whether it is the final one.

    Raises:
        ConfigError: The device's name can't be one.
        BrokerError: The broker can't be reached, or the device doesn't answer: it is offline, or older than the
        command.
    """
    site = Topics(config.link.site)
    check_name(device, "device")
    command_topic, answer_topic = (topic_of(site, device) for topic_of in topics)
    what = command_topic.rsplit("/", 1)[1]
    client = LinkClient(config.link, f"lineside-hub-{config.link.site}-{what}-{command.id}")
    answers: queue.Queue[A] = queue.Queue()
    client.subscribe(answer_topic, lambda _, data: answers.put(decode(data, kind)), qos=0)
    client.start()
    try:
        for answer in _answers(client, command_topic, command, answers, silence_s):
            if is_last(answer):
                return answer
        reached = client.last_error is None
        raise BrokerError(
            f"{device} doesn't answer" if reached else f"the broker can't be reached: {client.last_error}",
            expected=f"an answer within {silence_s:g} s",
            action="`lineside fleet show` says whether it is there; an older agent knows no such command.",
        )
    finally:
        client.close()


def _answers(
    client: LinkClient, topic: str, command: Command, answers: queue.Queue[A], silence_s: float
) -> Iterator[A]:
    """Repeats a command each second, and yields its answers until none has come for so long."""
    repeat_at_s, until_s = 0.0, time.monotonic() + silence_s
    while (now_s := time.monotonic()) < until_s:
        if not client.wait_connected(min(until_s - now_s, REPEAT_S)):
            continue
        if now_s >= repeat_at_s:
            client.publish(topic, encode(command), qos=0)
            repeat_at_s = now_s + REPEAT_S
        try:
            answer = answers.get(timeout=max(0.0, min(repeat_at_s, until_s) - time.monotonic()))
        except queue.Empty:
            continue
        if answer.id == command.id:
            until_s = time.monotonic() + silence_s
            yield answer


def change_recipe(config: HubConfig, device: str, recipe: str, *, timeout_s: float) -> RecipeAnswer:
    """Asks a device to change to another recipe.

    Raises:
        ConfigError: The device's name can't be one.
        BrokerError: The broker can't be reached, or the device doesn't answer: it is offline, or older than the
            command.
        RecipeError: The device refused; its previous recipe still runs.
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
        said = answer.error.message.removeprefix(f"[{answer.error.code}] ")  # agents send the whole text
        raise RecipeError(f"{device}: {said}", action=f"{answer.recipe or 'No recipe'} runs.")
    return answer


def read_log(config: HubConfig, device: str, *, lines: int, timeout_s: float) -> str:
    """Asks a device for the newest lines of its agent's log; arguments and other errors as for `change_recipe`.

    Raises:
        RequestError: The device's ``agent.toml`` does not allow it.
    """
    answer = ask(
        config,
        device,
        LogCommand(id=secrets.token_hex(8), lines=lines),
        LogAnswer,
        topics=(Topics.log_command, Topics.log_answer),
        silence_s=timeout_s,
    )
    if answer.error is not None:
        raise RequestError(f"{device}: {answer.error.message}", status=403, action="Ask who looks after the device.")
    return answer.text
