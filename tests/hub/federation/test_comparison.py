"""Plants find out which of them is worst, with real processes over a real broker, and no count is shown."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("mpyc", reason="the compare extra is not installed")

from lineside.cli import main
from lineside_hub.config import folder_config
from lineside_hub.federation.comparison import rounds
from lineside_hub.federation.comparison.messages import ComparisonAnswer, Measure
from lineside_hub.federation.comparison.program import own_numbers
from lineside_hub.federation.comparison.rounds import ComparisonResult, plan_comparison, run_comparison
from lineside_hub.federation.pool_config import load_pool
from lineside_hub.federation.pool_rounds import PlantService
from lineside_hub.federation.quality_counts import QualityQuestion, count_quality, quality_totals
from lineside_link.aggregation.identity import make_key
from lineside_link.client.client import LinkClient
from lineside_runtime.errors import AggregationError, ConfigError
from tests.hub.federation.plants import DAYS, SINCE, TYPES, Plants
from tests.peers.brokers import Mosquitto
from tests.peers.waiting import wait_for

pytestmark = pytest.mark.slow
QUESTION = QualityQuestion(since=SINCE, days=DAYS, types=TYPES)


@pytest.fixture
def plants(tmp_path: Path, broker: Mosquitto) -> Plants:
    return Plants(tmp_path, broker.config(), 3)


@contextlib.contextmanager
def joined(plants: Plants, names: list[str], said: dict[str, list[str]]) -> Iterator[None]:
    pool = load_pool(plants.pool)
    with contextlib.ExitStack() as stack:
        for name in names:
            lines = said.setdefault(name, [])
            hub = folder_config(plants.hub(name))
            service = PlantService(pool, hub, name, plants.keys[name], on_progress=lines.append)
            stack.callback(service.close)
            service.start()
        yield


def compare(plants: Plants, measure: Measure, timeout_s: float = 300.0) -> ComparisonResult:
    return run_comparison(load_pool(plants.pool), plants.coordinator, QUESTION, measure, timeout_s=timeout_s)


def fails_until(happened: Callable[[], bool], ask: Callable[[], ComparisonResult], *, what: str) -> None:
    """Asks in vain until it has happened: a plant that is not connected yet sees no plan of a round that ends early."""

    def again() -> bool:
        with pytest.raises(AggregationError, match="did not answer"):
            ask()
        return happened()

    wait_for(again, what=what)


def running_parties() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [each for each in children if any("comparison.party" in word for word in each.cmdline())]


def worst(plants: Plants) -> dict[str, str]:
    """What the counts in the clear say."""
    hubs = {name: folder_config(plants.hub(name)) for name in plants.names}
    totals = {name: quality_totals(QUESTION, count_quality(hub, QUESTION)) for name, hub in hubs.items()}
    types: Counter[str] = Counter()
    for each in totals.values():
        types.update(dict(zip((*TYPES, "other"), each.types, strict=True)))
    return {
        "reject-rate": max(plants.names, key=lambda name: totals[name].rejected / totals[name].parts),
        "false-reject-rate": max(
            plants.names, key=lambda name: totals[name].false_rejects / max(1, totals[name].rejects_reviewed)
        ),
        "type": max(types, key=lambda name: types[name]),
    }


def test_the_worst_is_found_and_nothing_else_is_shown(plants: Plants, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, bytes]] = []
    listener = LinkClient(load_pool(plants.pool).link, "listener")
    listener.subscribe("#", lambda topic, data: seen.append((topic, data)))
    listener.start()
    said: dict[str, list[str]] = {}
    with joined(plants, plants.names, said):
        expected = worst(plants)
        assert compare(plants, "type").worst == expected["type"]
        options = ("--pool", str(plants.pool), "--key", str(plants.folder / "coordinator.key"), "--since", str(SINCE))
        words = ["fleet", "pool", "compare", *options, "--days", str(DAYS), "--by", "false-reject-rate"]
        assert main([*words, "--timeout", "300", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["worst"] == expected["false-reject-rate"] and found["plants"] == plants.names
        wait_for(lambda: all("compared" in lines[-1] for lines in said.values()), what="the plants' processes")
    listener.close()
    kinds = Counter(topic.split("/")[-3] if "/peer/" in topic else topic.split("/")[-2] for topic, _ in seen)
    assert kinds["peer"] > 2 * 6 and set(kinds) == {"peer", "plan", "from", "to"}
    answers = [json.loads(data) for topic, data in seen if "/from/" in topic]
    assert {tuple(each) for each in answers} == {tuple(ComparisonAnswer.__struct_fields__)}
    # between plants, all but hellos is encrypted: no message but a repeated one is ever the same
    sealed = {(topic, data[1:9], data) for topic, data in seen if "/peer/" in topic and data[:1] == b"\1"}
    assert len({data for _, _, data in sealed}) == len(sealed) == len({(topic, at) for topic, at, _ in sealed})


def test_numbers_out_of_range_are_named_and_nothing_is_compared(
    plants: Plants, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {}
    for name, numbers in (("plant-1", (30, 20)), ("plant-2", (1, (1 << 30) - 1))):  # a part above its whole; too many
        counts = quality_totals(QUESTION, count_quality(folder_config(plants.hub(name)), QUESTION))
        wrong[counts.rejected, counts.parts] = numbers
    monkeypatch.setattr(rounds, "own_numbers", lambda plan, given: wrong.get(tuple(given)) or own_numbers(plan, given))
    with joined(plants, plants.names, {}), pytest.raises(AggregationError, match=r"not in range.*got plant-1, plant-2"):
        compare(plants, "reject-rate")


def test_a_round_without_a_plant_ends_and_the_next_one_is_whole(plants: Plants) -> None:
    said: dict[str, list[str]] = {}
    with joined(plants, plants.names[:2], said):
        fails_until(
            lambda: all(said.values()),
            lambda: compare(plants, "reject-rate", timeout_s=2.0),
            what="the round",
        )
        wait_for(lambda: len(running_parties()) == 2, what="the end of earlier rounds' processes")
        parties = running_parties()
        os.kill(parties[0].pid, signal.SIGKILL)
        wait_for(lambda: any("ended with -9" in lines[-1] for lines in said.values()), what="the killed process")
        with joined(plants, plants.names[2:], said):
            assert compare(plants, "reject-rate").worst == worst(plants)["reject-rate"]
    assert not parties[1].is_running()


def test_what_is_refused(plants: Plants) -> None:
    pool = load_pool(plants.pool)
    with pytest.raises(ConfigError, match="coordinator's key"):
        run_comparison(pool, make_key(), QUESTION, "type")
    names = {f"plant-{number:02}": f"{number:064x}" for number in range(13)}
    with pytest.raises(ConfigError, match="3 to 12"):
        plan_comparison(type(pool)(coordinator=pool.coordinator, link=pool.link, plants=names), QUESTION, "type")
    plan = plan_comparison(pool, QUESTION, "type")
    signed = ComparisonAnswer(worst=1).signed(plan, "plant-0", plants.keys["plant-0"])
    assert signed.is_of(plan, "plant-0") and not signed.is_of(plan, "plant-1")
    assert not signed.is_of(plan_comparison(pool, QUESTION, "type"), "plant-0")
    other = pool.plants | {"plant-1": make_key().public_key().public_bytes_raw().hex()}
    said: dict[str, list[str]] = {}
    with joined(plants, plants.names[:1], said):
        forged = type(pool)(coordinator=pool.coordinator, types=TYPES, link=pool.link, plants=other)
        fails_until(
            lambda: "other plants or limits" in "".join(said["plant-0"]),
            lambda: run_comparison(forged, plants.coordinator, QUESTION, "type", timeout_s=2.0),
            what="a refusal",
        )


PROGRAM = """
import sys
sys.argv = ["x", "--no-log"]
from mpyc.runtime import mpc
from lineside_hub.federation.comparison import program
secret = mpc.SecInt(62)
print(sorted(mpc.run(program._not_bits(mpc, [[secret(0), secret(1)], [secret(1), secret(2)], [secret(-1)]]))))
shares = [(1, 3), (2, 5), (4, 10), (0, 1)]
def largest(shares):
    return int(mpc.run(mpc.output(program._largest(mpc, secret, [(secret(a), secret(b)) for a, b in shares]))))
print([largest(shares[:count]) for count in (1, 2, 3, 4)], largest([(0, 1)] * 3), largest([(1, 9), (1, 9), (2, 9)]))
"""


def test_only_bits_pass_and_the_first_of_equals_wins() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[1, 2]", "[0, 1, 1, 1] 0 2"]
