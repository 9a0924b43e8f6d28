"""Counts of several plants are added up over a real broker, exactly, and no plant's own are shown."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lineside.cli import main
from lineside.privacy import PlantService, QualityQuestion, load_pool, run_round
from lineside_hub.config import folder_config
from lineside_hub.federation import coordinator_runner
from lineside_hub.federation.allowed_sums import AllowedSums
from lineside_hub.federation.coordinator_runner import CoordinatorRunner
from lineside_hub.federation.plant_runner import PlantAnswer, PlantRunner
from lineside_hub.federation.pool_config import PoolConfig
from lineside_hub.federation.pool_rounds import ANSWERED_NAME, plan_round
from lineside_hub.federation.quality_counts import SCORE_BINS
from lineside_link.aggregation.identity import make_key
from lineside_runtime.errors import AggregationError, ConfigError, InputNotFoundError
from tests.hub.federation.plants import DAYS, SINCE, TYPES, Plants, summary
from tests.peers.brokers import Mosquitto
from tests.peers.processes import ChildProcess
from tests.peers.waiting import wait_for

QUESTION = QualityQuestion(since=SINCE, days=DAYS, types=TYPES)


@pytest.fixture
def plants(tmp_path: Path, broker: Mosquitto) -> Plants:
    return Plants(tmp_path, broker.config(), 5)


@contextlib.contextmanager
def joined(
    plants: Plants, names: list[str], said: dict[str, list[str]] | None = None
) -> Iterator[dict[str, PlantService]]:
    """Services of some plants in this process."""
    pool = load_pool(plants.pool)
    with contextlib.ExitStack() as stack:
        services = {}
        for name in names:
            lines = (said if said is not None else {}).setdefault(name, [])
            service = PlantService(
                pool, folder_config(plants.hub(name)), name, plants.keys[name], on_progress=lines.append
            )
            stack.callback(service.close)
            service.start()
            services[name] = service
        yield services


def run(
    plants: Plants, question: QualityQuestion = QUESTION, *, timeout_s: float = 60.0, **options: Any
) -> dict[str, Any]:
    report = run_round(load_pool(plants.pool), plants.coordinator, question, step_timeout_s=timeout_s, **options)
    return json.loads(msgspec.json.encode(report))


def test_sums_are_those_of_the_rows_and_the_round_can_be_run_again(plants: Plants) -> None:
    with joined(plants, plants.names) as services:
        first = run(plants)
        assert summary(first) == plants.expected()
        assert first["plants"] == plants.names
        assert sum(first["score_counts"]) == first["rejected"]
        rates = [day["rate"] for day in first["days"]]
        assert all(day["low"] <= day["rate"] <= day["high"] for day in first["days"] if day["in_control"])
        assert len(rates) == DAYS
        assert [row["cumulative"] for row in first["types"]][-1] == 1
        again = run(plants)
        assert {**again, "round": ""} == {**first, "round": ""}
        assert all(service.wait(2, 60) for service in services.values())


def test_a_plant_that_is_away_is_left_out_and_no_day_is_then_summed_with_it(plants: Plants) -> None:
    with joined(plants, plants.names[:4]):
        report = run(plants, timeout_s=8.0)
        assert report["plants"] == plants.names[:4]
        assert summary(report) == plants.expected(plants.names[:4])
    said: dict[str, list[str]] = {}
    with joined(plants, plants.names, said), pytest.raises(AggregationError, match="too few plants answered"):
        run(plants, timeout_s=8.0)
    wait_for(
        lambda: all("two sums would show one plant's" in said[name][-1] for name in plants.names[:4]), what="refusals"
    )
    kept = json.loads((plants.hub("plant-0") / ANSWERED_NAME).read_text())
    assert kept["2026-11-02"]["plants"] == plants.names[:4]
    with joined(plants, plants.names[:4]):
        assert summary(run(plants, timeout_s=8.0)) == plants.expected(plants.names[:4])


def test_a_third_away_is_too_many_of_five(plants: Plants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_runner, "WAIT_SHOWN_S", 0.0)
    said: list[str] = []
    with (
        joined(plants, plants.names[:3]),
        pytest.raises(AggregationError, match="expected at least 4; got 3, none from plant-3, plant-4"),
    ):
        run(plants, timeout_s=2.0, on_progress=said.append)
    assert said[:3][-1] == "keys: waiting for plant-3, plant-4"
    assert not (plants.hub("plant-0") / ANSWERED_NAME).exists()
    hub, pool = folder_config(plants.hub("plant-0")), load_pool(plants.pool)
    for plant, text in (("plant-1", "expected the one whose public part is"), ("plant-9", "expected one of plant-0, ")):
        with pytest.raises(ConfigError, match=text):
            PlantService(pool, hub, plant, plants.keys["plant-0"])


@pytest.mark.parametrize(("place", "value"), [(0, -5000), (1, -5000), (-SCORE_BINS, -5000), (3 * DAYS + 4, 5000)])
def test_sums_of_a_plant_that_sends_no_counts_are_refused(plants: Plants, place: int, value: int) -> None:
    """Passed or rejected parts and a bin of scores below 0, and more false rejects than reviewed rejects."""
    values = np.zeros(QUESTION.length, np.int64)
    values[place] = value
    answer = PlantAnswer(values, ("2026-11-02",), "some days")
    sums = AllowedSums(plants.hub("plant-4") / ANSWERED_NAME)
    pool, key = load_pool(plants.pool), plants.keys["plant-4"]
    liar = PlantRunner(pool, "plant-4", key, lambda _: answer, sums=sums, uploads=plants.folder / "uploads")
    liar.start()
    try:
        with joined(plants, plants.names[:4]), pytest.raises(AggregationError, match=r"plant-0, .*plant-4 to check"):
            run(plants)
    finally:
        liar.close()


def ask(plants: Plants, question: QualityQuestion) -> None:
    """Asks as a coordinator that does not check its question."""
    pool = load_pool(plants.pool)
    with CoordinatorRunner(pool, plants.coordinator, "coordinator") as runner:
        runner.run(plan_round(pool, question), step_timeout_s=2.0)


def test_plants_refuse_other_questions_than_pool_toml_allows(plants: Plants) -> None:
    said: dict[str, list[str]] = {}
    with joined(plants, plants.names, said) as services:
        wait_for(lambda: all(one.client.connected for one in services.values()), what="connected plants")
        for question, text in (
            (QualityQuestion(since=SINCE, days=DAYS, types=("stain", "dent")), "other types than pool.toml"),
            (QualityQuestion(since=SINCE.replace(year=2999), days=1, types=TYPES), "days that are over"),
            (QualityQuestion(since=SINCE.replace(year=1), days=1, types=TYPES), "days from 1970-01-01 on"),
        ):
            with pytest.raises(AggregationError):
                ask(plants, question)
            wait_for(lambda: all(text in "".join(lines[-1:]) for lines in said.values()), what="refusals")  # noqa: B023
        with pytest.raises(ConfigError, match="expected days that are over"):
            run(plants, QualityQuestion(since=SINCE.replace(year=9999), days=60, types=TYPES))
        with pytest.raises(ConfigError, match=r"expected days from 1970-01-01 on; got 60 from 0001-11-02\. Ask"):
            run(plants, QualityQuestion(since=SINCE.replace(year=1), days=60, types=TYPES))
        pool = load_pool(plants.pool)
        stranger = make_key()
        with pytest.raises(ConfigError, match="coordinator's key"):
            run_round(pool, stranger, QUESTION)
        forged = msgspec.structs.replace(pool, coordinator=stranger.public_key().public_bytes_raw().hex())
        with pytest.raises(AggregationError):
            run_round(forged, stranger, QUESTION, step_timeout_s=2.0)
        wait_for(lambda: all("did not sign" in lines[-1] for lines in said.values()), what="refusals")
        assert all("Compare coordinator in pool.toml" in lines[-1] for lines in said.values())


@pytest.mark.parametrize("step", ["keys", "shares", "masked", "survivors"])
def test_a_killed_broker_and_a_plant_that_leaves_change_no_sum(plants: Plants, broker: Mosquitto, step: str) -> None:
    with joined(plants, plants.names) as services:

        def after(line: str) -> None:
            if line.startswith(f"{step}:"):
                services["plant-2"].close()
                broker.restart()

        report = run(plants, timeout_s=8.0, on_progress=after)
    assert set(plants.names) - set(report["plants"]) <= {"plant-2"}
    assert summary(report) == plants.expected(report["plants"])


def test_killed_processes_of_a_plant_and_of_the_coordinator(plants: Plants, tmp_path: Path) -> None:
    def child(*command: object) -> ChildProcess:
        arguments = [sys.executable, "-m", "lineside", "fleet", "pool", *command]
        process = ChildProcess([str(one) for one in arguments], tmp_path / f"{command[0]}-{len(children)}.log")
        children.append(process)
        process.start()
        return process

    children: list[ChildProcess] = []
    common = ("--pool", plants.pool, "--key")
    try:
        for name in plants.names:
            child("join", *common, plants.folder / f"{name}.key", "--plant", name, "--hub", plants.hub(name))
        wait_for(lambda: all("waits for rounds" in process.log for process in children), what="the plants")
        question = ("--since", SINCE, "--days", DAYS)
        first = child("run", *common, plants.folder / "coordinator.key", *question)
        wait_for(lambda: "keys:" in first.log, what="the first step")
        first.kill()
        children[3].kill()
        out = tmp_path / "report.json"
        second = child("run", *common, plants.folder / "coordinator.key", *question, "--timeout", 10, "--out", out)
        assert second.wait(120) == 0, second.log
    finally:
        for process in children:
            process.kill()
    report = json.loads(out.read_text())
    assert report["plants"] == [name for name in plants.names if name != "plant-3"]
    assert summary(report) == plants.expected(report["plants"])
    assert "4 plants: plant-0, plant-1, plant-2, plant-4" in second.log


def test_keys_and_configuration_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str], plants: Plants) -> None:
    key = tmp_path / "new.key"
    assert main(["fleet", "pool", "key", "--out", str(key)]) == 0
    assert len(capsys.readouterr().out.strip()) == 64
    assert key.stat().st_mode & 0o077 == 0
    assert main(["fleet", "pool", "key", "--out", str(key)]) == 1
    common = ("--pool", str(plants.pool), "--key", str(key), "--since", str(SINCE))
    key.write_text("no key\n")
    for more, words in (((), "Restore it, or make another"), (("--days", "93"), "Ask for fewer days, several times")):
        assert main(["fleet", "pool", "run", *common, *more]) == 1
        assert words in capsys.readouterr().err
    with pytest.raises(InputNotFoundError):
        load_pool(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="the key of 'plant-0'"):
        PlantService(load_pool(plants.pool), folder_config(plants.hub("plant-0")), "plant-0", make_key())
    pool = load_pool(plants.pool)
    with pytest.raises(ConfigError, match="3 to 1000"):
        PoolConfig(
            coordinator=pool.coordinator, types=TYPES, link=pool.link, plants=dict(list(pool.plants.items())[:2])
        )
    plants.pool.write_text("unknown = 1\n" + plants.pool.read_text())
    with pytest.raises(ConfigError, match=r"unknown.*docs/privacy\.md describes pool\.toml"):
        load_pool(plants.pool)
