"""The keys of ``[inspect]`` that say where the model runs, on an agent's process: fallback, return, result cache."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from lineside_agent.config import DegradeConfig, InspectConfig, engine_settings, parse_config, read_settings
from lineside_agent.config.placement import ResultCacheConfig
from lineside_agent.deployment.bundle_trial import try_bundle
from lineside_agent.health.device_use import DeviceUseMonitor
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import load
from lineside_agent.inspection.pipeline import PipelineCounts
from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_link.messages import PlacementReport
from lineside_models.frame import Frame
from lineside_models.golden import replay
from lineside_runtime.bundle import Bundle
from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, EngineError, InputNotFoundError
from lineside_runtime.session import Session
from tests.peers.waiting import free_port, wait_for
from tests.worlds.agent import TriggeredAgent
from tests.worlds.bundles import dark

PARTS = 100
HEAD = 'device = "cam-1"\nfolder = "state"\nbundle = "b"\n[camera]\ntype = "folder"\npath = "frames"\n'
ORT, OTHER = "ort/cpu:0", "openvino/cpu:0"


def trigger(agent: TriggeredAgent, first: int, count: int) -> list[dict[str, Any]]:
    return [ask(agent.state, TriggerRequest("trigger", f"P-{number}")) for number in range(first, first + count)]


def kill_engine(agent: TriggeredAgent) -> None:
    (engine,) = (each for each in psutil.Process(agent.pid).children() if "bootstrap.py" in " ".join(each.cmdline()))
    os.kill(engine.pid, signal.SIGKILL)


def test_a_device_that_dies_is_replaced_within_the_deadline_and_comes_back(tmp_path: Path, bundle: Bundle) -> None:
    placement = '[inspect]\nengines = ["ort", "openvino"]\nisolate = ["ort"]\nstandby = true\n'
    port = free_port()
    agent = TriggeredAgent(tmp_path, bundle.path, f"{placement}[metrics]\nport = {port}\n")
    try:
        agent.wait_ready()
        told = trigger(agent, 0, PARTS // 2)
        kill_engine(agent)
        told += trigger(agent, PARTS // 2, PARTS // 2)
        wait_for(lambda: agent.status["fallbacks"] >= 1, 60, what="the failure")
        status = agent.status
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            metrics = answer.read().decode()
        wait_for(lambda: trigger(agent, PARTS, 1) and agent.status["used_device"] == ORT, 60, what="ort again")
        assert agent.stop() == 0
    finally:
        agent.stop()
    assert [each["verdict"] for each in told] == ["pass", "reject"] * (PARTS // 2)
    assert status["line"]["late"] == 0
    assert re.search(r"^lineside_fallbacks_total\{.*\} [1-9]", metrics, re.MULTILINE)
    rows = agent.rows()[:PARTS]
    assert {row.requested_device for row in rows} == {"cpu:0"}
    assert {row.used_device for row in rows[: PARTS // 2]} == {ORT}
    assert {row.used_device for row in rows[PARTS // 2 :]} in ({OTHER}, {OTHER, ORT})
    assert not [row.error for row in rows if row.error]


def test_each_recipe_runs_the_model_where_its_own_table_says(tmp_path: Path, bundle: Bundle) -> None:
    tables = "".join(
        f'[[recipe]]\nname = "{name}"\n[recipe.inspect]\nengines = ["{name}"]\n' for name in ("ort", "openvino")
    )
    agent = TriggeredAgent(tmp_path, bundle.path, tables)
    try:
        agent.wait_ready()
        trigger(agent, 0, 2)
        ask(agent.state, TriggerRequest("recipe", recipe="openvino"), timeout_s=60)
        agent.wait_ready()
        trigger(agent, 2, 2)
        assert agent.stop() == 0
    finally:
        agent.stop()
    found = [(row.recipe, row.used_device, row.requested_device, row.verdict) for row in agent.rows()]
    assert [each[:3] for each in found] == [("ort", ORT, "cpu:0")] * 2 + [("openvino", OTHER, "cpu:0")] * 2
    assert sorted(each[3] for each in found) == ["pass", "pass", "reject", "reject"]


def test_an_engine_that_is_not_there_is_reported_once_and_no_longer_with_another_bundle(bundle: Bundle) -> None:
    active, reports = ActiveBundle(), list[PlacementReport]()
    monitor = DeviceUseMonitor(active, PipelineCounts(), reports.append)
    for engines in (("hailo", "ort"), ("ort",)):
        old = active.swap(load("a", bundle, InspectConfig(engines=engines)))
        if old is not None:
            old.close()
        for _ in range(3):
            monitor.check()
            assert active.loaded is not None
            active.loaded.inspect(Frame(image=dark()))
    assert [(report.requested_device, report.used_device) for report in reports] == [("npu:0", ORT), ("cpu:0", ORT)]
    assert reports[0].problem.startswith("hailo failed during probe: ")
    assert (reports[1].problem, monitor.status()["device_problem"]) == ("", None)
    last = active.swap(None)
    assert last is not None
    last.close()


def test_an_engine_is_told_how_many_workers_call_it_at_once(bundle: Bundle) -> None:
    loaded = load("a", bundle, InspectConfig(engines=("openvino",), workers=2))
    try:
        placement: Any = loaded.session._serving.placement
        with placement.pool.slots[0].executable.use() as executable:
            assert executable._compiled.get_property("NUM_STREAMS") == 2
    finally:
        loaded.close()


def test_beside_an_engine_that_is_absent_a_failure_is_the_problem_until_the_device_answers_again(
    bundle: Bundle,
) -> None:
    active = ActiveBundle()
    monitor = DeviceUseMonitor(active, PipelineCounts())
    loaded = load("a", bundle, InspectConfig(engines=("hailo", "ort")))
    active.swap(loaded)
    problems = []
    for failed in (False, True, False):
        if failed:
            loaded.session._failures.add(ORT, "run", EngineError("it gave up"))
        loaded.inspect(Frame(image=dark()))
        monitor.check()
        problems.append(monitor.problem.partition(": ")[0])
    assert problems == ["hailo failed during probe", f"{ORT} failed during run", "hailo failed during probe"]
    loaded.close()


def _kept(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM entry").fetchone()[0])


def test_a_frame_that_comes_again_is_answered_by_the_cache_also_after_a_restart(tmp_path: Path, bundle: Bundle) -> None:
    agent = TriggeredAgent(tmp_path, bundle.path, '[inspect.cache]\nsqlite = "results.db"\n')
    try:
        agent.wait_ready()
        told = trigger(agent, 0, 6)
        wait_for(lambda: agent.status["inspected"] == 6, 60)
        first = agent.status
        wait_for(lambda: _kept(tmp_path / "results.db") == 2)  # an agent that ends waits 2 s for a busy disk, no longer
        assert agent.stop() == 0
        agent.start()
        agent.wait_ready()
        told += trigger(agent, 6, 2)
        wait_for(lambda: agent.status["inspected"] == 2, 60)
        second = agent.status
    finally:
        agent.stop()
    assert [each["verdict"] for each in told] == ["pass", "reject"] * 4
    assert first["cache_hits"] >= 4
    assert sum(row.cache_hits for row in agent.rows()[:6]) == first["cache_hits"]
    assert (second["cache_hits"], second["cache_misses"]) == (2, 0)


def test_the_golden_input_is_never_answered_by_the_cache(bundle: Bundle, tmp_path: Path) -> None:
    """What the cache knows from an earlier start says nothing about the device that is to run the bundle now."""
    config = Config(cache=CacheConfig(sqlite=tmp_path / "results.db"))
    for _ in range(2):
        with Session(bundle, config) as session:
            replay(session, bundle)
            assert session.cache_stats is not None
            assert (session.cache_stats.hits, session.cache_stats.misses) == (0, 0)


def test_the_trial_of_a_bundle_runs_it_and_asks_no_cache_whatever_the_tables_say(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ResultCacheConfig(sqlite=str(tmp_path / "results.db"))
    degrade = DegradeConfig(system=tmp_path)
    with caplog.at_level("WARNING", logger="lineside.update"):
        try_bundle(bundle, InspectConfig(cache=cache), degrade, lambda: False)
    assert not caplog.records
    assert not (tmp_path / "results.db").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("gpu_ratio = 1.5", r"\$\.inspect\.gpu_ratio"),
        ('engines = ["ort", "ort"]', r"\$\.inspect\.engines"),
        ('engines = ["ort"]\nisolate = ["litert"]', r"\$\.inspect\.isolate"),
        ("replica_cores = [[0], [1]]", r"\$\.inspect\.replica_cores"),
        ("[inspect.cache]\nsqlite_bytes = 5", r"\$\.inspect\.cache\.sqlite_bytes"),
        ('[inspect.cache]\nredis = ["http://a"]', r"\$\.inspect\.cache\.redis"),
    ],
)
def test_what_contradicts_itself_is_refused_when_the_file_is_read(keys: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(f"{HEAD}[inspect]\n{keys}\n".encode(), Path("/etc/lineside"))


def test_every_setting_reaches_the_engine_and_recipes_have_their_own() -> None:
    text = (
        f'{HEAD}[inspect]\nengines = ["ncnn", "ort"]\ngpu_ratio = 0.3\nnpu_threshold = 0.5\ncores = [1]\n'
        'fallback_strategy = "fastest"\nbalance = true\nreplica_cores = [[0], [1]]\n'
        'isolate = ["ncnn=/usr/bin/python3"]\n[inspect.operator_libraries]\nort = ["libacme.so"]\n'
        '[inspect.cache]\nmemory_bytes = 1000\nsqlite = "r.db"\n'
        '[[recipe]]\nname = "a"\n[recipe.inspect]\nfallback_strategy = "error"\n'
    )
    config = parse_config(text.encode(), Path("/etc/lineside"))
    found = engine_settings(config.inspect)
    assert (found.engines, found.gpu_ratio, found.npu_threshold) == (("ncnn", "ort"), 0.3, 0.5)
    assert (found.cores, found.replica_cores, found.balance) == ((1,), ((0,), (1,)), True)
    assert found.fallback_strategy == "fastest"
    assert found.isolate == ("ncnn=/usr/bin/python3",)
    assert found.operator_libraries == {"ort": ("/etc/lineside/libacme.so",)}
    assert found.cache is not None
    assert (found.cache.memory_bytes, found.cache.sqlite) == (1000, Path("/etc/lineside/r.db"))
    assert config.recipe[0].inspect == {"fallback_strategy": "error"}


def test_an_agent_has_every_setting_of_a_session() -> None:
    elsewhere = {"isolated_timeout_s": "engine_timeout_s", "submit_workers": "workers"}
    for name in Config.__struct_fields__:
        if name != "submit_queue":  # [trigger] queue: parts wait for a worker of the agent, not for a device
            assert elsewhere.get(name, name) in InspectConfig.__struct_fields__


def test_a_library_of_operators_reaches_the_engine(bundle: Bundle, tmp_path: Path) -> None:
    lost = str(tmp_path / "liblost.so")
    with pytest.raises(InputNotFoundError, match="liblost"):
        load("a", bundle, InspectConfig(engines=("ort",), operator_libraries={"ort": (lost,)}))


def test_a_hub_may_set_where_a_model_runs_but_names_no_file_or_server_of_the_device() -> None:
    read_settings(b'[inspect]\nengines = ["openvino"]\nstandby = true\n[inspect.cache]\nmemory_bytes = 1000\n')
    for key in ('sqlite = "/etc/passwd"', 'redis = ["redis://10.0.0.9"]'):
        with pytest.raises(ConfigError, match="can't be set by a hub"):
            read_settings(f"[inspect.cache]\n{key}\n".encode())
    with pytest.raises(ConfigError, match=r"\$\.inspect\.isolate can't name a program by a hub"):
        read_settings(b'[inspect]\nisolate = ["ort=/tmp/python"]\n')
    for table in ("inspect", "inspect.models.find"):
        with pytest.raises(ConfigError, match=rf"\$\.{table}\.operator_libraries can't be set by a hub"):
            read_settings(f'[{table}.operator_libraries]\nort = ["/tmp/lib.so"]\n'.encode())
