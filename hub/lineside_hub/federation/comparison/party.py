"""A plant's part of a comparison, in a process of its own: `mpyc` keeps its state in modules.

python -m lineside_hub.federation.comparison.party < TASK
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import Any

import msgspec

from lineside_hub.federation.comparison import messages
from lineside_hub.federation.comparison.messages import ComparisonAnswer, ComparisonPlan, ComparisonTask
from lineside_hub.federation.comparison.program import compare
from lineside_hub.federation.comparison.transport import PeerNetwork
from lineside_hub.federation.coordinator_runner import connect
from lineside_link.aggregation.identity import PlantKey
from lineside_link.client.client import LinkClient
from lineside_link.topics import Topics
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import LinesideError

FAILED = 3
"""Exit status after an error of lineside's, which stands on stderr."""

REPEAT_S = 0.5
"""Pause before an answer is sent again."""


def open_runtime(plan: ComparisonPlan, plant: str) -> Any:
    """Returns `mpyc`'s runtime with the plants as parties; it reads the command line when it is imported."""
    words, sys.argv = sys.argv, [sys.argv[0], "--no-log", "-I", str(plan.names.index(plant))]
    for name in plan.names:
        sys.argv += ["-P", f"{name}:1"]  # never connected to
    try:
        from mpyc.runtime import mpc
    finally:
        sys.argv = words
    return mpc


async def take_part(task: ComparisonTask, plan: ComparisonPlan, key: PlantKey) -> ComparisonAnswer:
    """Computes with the other plants, and stays until the coordinator has all answers.

    Raises:
        AggregationError: The broker cannot be reached, or somebody did not answer in time.
    """
    mpc, topics = open_runtime(plan, task.plant), Topics(task.link.site)
    client = LinkClient(task.link, f"pool-{task.plant}-compare")
    over = asyncio.Event()
    loop = asyncio.get_running_loop()

    def dismissed(_topic: str, _data: bytes) -> None:
        loop.call_soon_threadsafe(over.set)

    client.subscribe(topics.pool_message(plan.round, task.plant), dismissed)
    try:
        await asyncio.to_thread(connect, client)
        network = PeerNetwork(client, topics, plan, task.plant, key, mpc)
        await network.open()
        greeting = asyncio.ensure_future(network.keep_saying_hello())
        worst, wrong = await compare(mpc, plan, task.numbers)
        found = ComparisonAnswer(worst=worst, out_of_range=wrong).signed(plan, task.plant, key)
        while not over.is_set():
            client.publish(topics.pool_answer(plan.round, task.plant), msgspec.json.encode(found))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(over.wait(), REPEAT_S)
        greeting.cancel()
    finally:
        client.close()
    return found


def main() -> int:
    """Computes the task on stdin; only the answer goes to stdout."""
    task = decode_json(sys.stdin.buffer.read(), type=ComparisonTask)
    plan = messages.plan.decode(task.plan)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        mpc = open_runtime(plan, task.plant)
        key = PlantKey.from_private_bytes(task.key)
        found = mpc.run(asyncio.wait_for(take_part(task, plan, key), task.timeout_s))
    except (TimeoutError, asyncio.TimeoutError):
        sys.stderr.write(f"the comparison did not end within {task.timeout_s:g} s: a plant does not answer\n")
        return FAILED
    except LinesideError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
