"""Comparisons of plants without their counts: right answers, time and bytes, with a process for each plant.

Baseline: the same comparison of the counts in the clear. Plants draw counts of parts and rejects; their processes
compute together over a real broker. Processor time is that of all processes together, starts included; wall time is
that of the slowest question and depends on the load of the machine, whose cores all plants share.
"""

from __future__ import annotations

import datetime
import resource
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.smoke import scaled
from lineside_hub.federation.comparison import messages
from lineside_hub.federation.comparison.messages import ComparisonPlan, ComparisonTask, Measure
from lineside_hub.federation.quality_counts import QualityQuestion
from lineside_link.aggregation.identity import make_key, public_hex
from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.topics import Topics
from tests.peers.brokers import Mosquitto, find_mosquitto

SIZES: tuple[int, ...] = scaled((3, 5, 10), smoke=(3,))
QUESTIONS: int = scaled(3, smoke=1)
MEASURES: tuple[Measure, ...] = scaled(("reject-rate", "type"), smoke=("reject-rate",))
TYPES = ("scratch", "dent", "stain", "crack", "burr")
PARTS_MAX, REJECT_SHARE_MAX = 1_000_000_000, 0.05
TIMEOUT_S = 600.0


def run() -> dict[str, Any]:
    """Asks some questions of pools of each size."""
    with tempfile.TemporaryDirectory(prefix="lineside-comparison-") as folder:
        broker = Mosquitto(Path(folder) / "broker", program=find_mosquitto())
        broker.start()
        try:
            link = LinkConfig(url=f"mqtt://127.0.0.1:{broker.port}", site="pool")
            return {
                "baseline": "the same comparison of the counts in the clear",
                "types": len(TYPES) + 1,
                "parts_max": PARTS_MAX,
                "rows": {f"{count} plants, {of}": _measured(link, count, of) for of in MEASURES for count in SIZES},
            }
        finally:
            broker.stop()


def _measured(link: LinkConfig, count: int, measure: Measure) -> dict[str, Any]:
    found = [_question(link, count, measure, seed) for seed in range(QUESTIONS)]
    return {
        "questions": QUESTIONS,
        "right": sum(right for right, _, _, _ in found),
        "cpu_s": round(float(np.median([cpu_s for _, cpu_s, _, _ in found])), 3),
        "wall_s": round(max(wall_s for _, _, wall_s, _ in found), 2),
        "bytes_of_a_plant": max(size for _, _, _, size in found),
    }


def _numbers(count: int, measure: Measure, seed: int) -> list[tuple[int, ...]]:
    """Returns each plant's numbers."""
    draw = np.random.default_rng(seed)
    if measure == "type":
        return [tuple(int(each) for each in draw.integers(0, 10_000, len(TYPES) + 1)) for _ in range(count)]
    parts = draw.integers(1, 1_000_000, count)
    return [(int(each * draw.uniform(0, REJECT_SHARE_MAX)), int(each)) for each in parts]


def _question(link: LinkConfig, count: int, measure: Measure, seed: int) -> tuple[bool, float, float, int]:
    """Returns whether the answer is right, processor and wall seconds, and the bytes that the busiest plant sent."""
    keys = {f"plant-{number:02}": make_key() for number in range(count)}
    plan = ComparisonPlan(
        round=secrets.token_hex(16),
        measure=measure,
        question=QualityQuestion(since=datetime.date(2026, 11, 2), days=7, types=TYPES),
        value_max=PARTS_MAX,
        plants={name: public_hex(key) for name, key in keys.items()},
    )
    numbers = _numbers(count, measure, seed)
    topics, sent, answered, all_in = Topics(link.site), Counter[str](), set[str](), threading.Event()

    def listen(topic: str, data: bytes) -> None:
        if "/peer/" in topic:
            sent[topic.split("/")[-2]] += len(data)
        elif "/from/" in topic:
            answered.add(topic.rsplit("/", 1)[-1])
            if len(answered) == count:
                all_in.set()

    client = LinkClient(link, "benchmark")
    client.subscribe(f"{topics.prefix}/pool/round/{plan.round}/#", listen)
    client.start()
    client.wait_connected(60.0)
    began_s, began_cpu_s = time.perf_counter(), _children_s()
    tasks = [
        ComparisonTask(
            plan=msgspec.json.encode(plan),
            link=link,
            plant=name,
            key=key.private_bytes_raw(),
            numbers=own,
            timeout_s=TIMEOUT_S,
        )
        for (name, key), own in zip(keys.items(), numbers, strict=True)
    ]
    parties = [_started(task) for task in tasks]
    all_in.wait(TIMEOUT_S)
    took_s = time.perf_counter() - began_s
    for name in plan.names:
        client.publish(topics.pool_message(plan.round, name), b"done")
    places = {messages.answer.decode(party.communicate()[0]).worst for party in parties}
    client.close()
    return places == {_expected(numbers, measure)}, _children_s() - began_cpu_s, took_s, max(sent.values())


def _started(task: ComparisonTask) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lineside_hub.federation.comparison.party"]
    party = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if party.stdin is None:
        raise RuntimeError("no pipe")
    party.stdin.write(msgspec.json.encode(task))
    party.stdin.close()
    party.stdin = None
    return party


def _expected(numbers: list[tuple[int, ...]], measure: Measure) -> int:
    if measure == "type":
        return int(np.argmax(np.sum(numbers, axis=0)))
    return max(range(len(numbers)), key=lambda number: numbers[number][0] / numbers[number][1])


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
