"""The dashboard of a hub with 1,000 devices and ten million results in PostgreSQL, and under attack.

Baseline: the same Pareto by one pass over the results, as a hub without counts by hour would compute it.

- ``page_ms``: median and 95th percentile of whole requests over HTTP, one after the other; beside it the processor time
  that hub and database spent on a request, which does not depend on what else the machine does.
- ``count_seconds``: how long the first start of this release counts the results that are there.
- ``hub_rss_bytes``: resident memory of the hub's process at its highest.
- ``live``: the same pages while 97 % of the devices are there: simulated ones (`lineside_hub.simulate`) behind the real
  broker, of which each sends `LIVE_PARTS` results and a changed report every `LIVE_EVERY_S`; how many results the hub
  acknowledged meanwhile. The processor time of a request there has the hub's work for the devices in it.
- ``hostile``: `CONNECTIONS` connections that send half a request, and some that ask for a page and do not read it;
  meanwhile a usual client opens pages; then oversized bodies, wrong hosts and stolen cookies.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import random
import resource
import socket
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg
import tomli_w

from benchmarks.hub.live_fleet import LiveFleet
from benchmarks.hub.results_in import postgres_server
from benchmarks.smoke import scaled
from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.simulate.processes import Child, free_port, start_broker
from lineside_hub.web.accounts import begin_session, set_account
from lineside_hub.web.routing import COOKIE
from lineside_link.config import LinkConfig
from lineside_link.messages import BundleRef, Reported, Up

DEVICES = scaled(1000, smoke=20)
SQLITE_ROWS = scaled(1_000_000, smoke=2_000)
POSTGRES_ROWS = scaled(10_000_000, smoke=4_000)
REQUESTS = scaled(40, smoke=2)
CONNECTIONS = scaled(1000, smoke=20)
LINES = 10
AWAY_EVERY = 33
"""One device in so many is offline."""

LIVE_EVERY_S = 10.0
LIVE_PARTS = 5
LIVE_START_S = 900.0

HOURS = 100
"""Time that the results cover."""

TYPES = ("scratch", "dent", "burr", "stain", "crack", "pit")
BARS = {"fleet_page_p95_ms": 300.0, "pareto_p95_ms": 1000.0, "hub_rss_bytes": 250e6}

PAGES = {
    "fleet": "/",
    "quality": "/quality?since=30d",
    "pareto": "/api/v1/statistics/pareto?since=all",
    "control_chart": "/api/v1/statistics/control-chart?since=all&step_h=1",
    "comparison": "/api/v1/statistics/comparison?a_group=line-0&b_group=line-1&since=all",
    "search_newest": "/api/v1/results?since=all",
    "search_rare_type": "/api/v1/results?since=all&defect=crack&device=cam-0007",
    "search_part": "/api/v1/results?since=all&part=part-0007-3",
    "alarms": "/alarms",
    "metrics": "/metrics",
}

SETTINGS: dict[str, Any] = {
    "baseline": "the same Pareto by one pass over the results",
    "devices": DEVICES,
    "hours": HOURS,
    "requests_a_page": REQUESTS,
    "bars": BARS,
}

PASSWORD = "four words of chalk"


def run() -> dict[str, Any]:
    """Measures PostgreSQL; `benchmarks.hub.dashboard_sqlite` measures SQLite."""
    with tempfile.TemporaryDirectory(prefix="lineside-dashboard-") as folder, postgres_server() as (url, conninfo):
        return {**SETTINGS, "postgresql": _measure_postgres(Path(folder) / "hub", url, conninfo)}


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def measure_sqlite(folder: Path) -> dict[str, Any]:
    _make_hub(folder)
    path = folder / "hub.db"
    _say(f"{SQLITE_ROWS} results into SQLite")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("BEGIN")
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {SQLITE_ROWS}) "
        draw = "(abs(random()) % 1000)"
        connection.execute(
            f"{numbers}, d AS MATERIALIZED (SELECT i, {draw} AS u, {draw} AS t FROM n) "
            f"{_insert(SQLITE_ROWS, _sqlite_pad)} FROM d"
        )
        connection.execute("COMMIT")
        seconds = _count(lambda text: connection.execute(text))
        for _, text in triggers:
            connection.execute(text)
        types = (
            "SELECT json_extract(e.value, '$[0]'), count(*) FROM results r JOIN json_each(r.detections) e GROUP BY 1"
        )
        pass_ms = _timed_ms(lambda: connection.execute(types).fetchall())
    return {"rows": SQLITE_ROWS, "count_seconds": seconds, "pass_over_results_ms": pass_ms, **_serve(folder, "")}


def _measure_postgres(folder: Path, url: str, conninfo: str) -> dict[str, Any]:
    _make_hub(folder)
    _say(f"{POSTGRES_ROWS} results into PostgreSQL")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("ALTER TABLE results DISABLE TRIGGER results_counted")
        indexes = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'results' AND indexname <> 'results_pkey'"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        drawn = "(random() * 999)::int"
        source = (
            f"generate_series(0, {POSTGRES_ROWS - 1}) AS i, LATERAL (SELECT {drawn} AS u, {drawn} AS t WHERE i >= 0) d"
        )
        connection.execute(f"{_insert(POSTGRES_ROWS, _postgres_pad)} FROM {source}")
        for _, text in indexes:
            connection.execute(text)
        connection.execute("ANALYZE")
        _say("counting them")
        seconds = _count(lambda text: connection.execute(text), postgres=True)
        connection.execute("ALTER TABLE results ENABLE TRIGGER results_counted")
        connection.execute("ANALYZE")
        types = (
            "SELECT e ->> 0, count(*) FROM results r, LATERAL json_array_elements(r.detections::json) e "
            "WHERE r.verdict <> 'pass' GROUP BY 1"
        )
        pass_ms = _timed_ms(lambda: connection.execute(types).fetchall())
    return {"rows": POSTGRES_ROWS, "count_seconds": seconds, "pass_over_results_ms": pass_ms, **_serve(folder, url)}


def _sqlite_pad(value: str) -> str:
    return f"printf('%04d', {value})"


def _postgres_pad(value: str) -> str:
    return f"lpad(({value})::text, 4, '0')"


def _insert(rows: int, pad: Callable[[str], str]) -> str:
    """Returns a statement that makes results: 5 % are rejected, by types of falling frequency, over `HOURS`."""
    begin_ns = time.time_ns() - HOURS * 3_600_000_000_000
    step_ns = HOURS * 3_600_000_000_000 // rows
    at_ns = f"({begin_ns} + CAST(i AS bigint) * {step_ns})"
    limits = (520, 780, 900, 960, 995)
    kinds = " ".join(f"WHEN t < {limit} THEN '{name}'" for name, limit in zip(TYPES[:-1], limits, strict=True))
    kind = f"CASE {kinds} ELSE '{TYPES[-1]}' END"
    device, seq = pad(f"i % {DEVICES}"), f"(i / {DEVICES} + 1)"
    return (
        "INSERT INTO results (device, epoch, seq, part_id, source, sequence, captured_at_ns, verdict, detections, "
        "bundle, bundle_sha256, requested_device, used_device, latency_ms, width, height, error, received_at_ns, "
        "recipe) "
        f"SELECT 'cam-' || {device}, 'e1', {seq}, 'part-' || {device} || '-' || {seq}, 'strip', {seq}, "
        f"{at_ns}, CASE WHEN u < 40 THEN 'reject' WHEN u < 50 THEN 'unsure' ELSE 'pass' END, "
        f"CASE WHEN u < 50 THEN '[[\"' || {kind} || '\",0.91,10.0,20.0,30.5,40.5]]' ELSE '[]' END, "
        f"CASE WHEN i < {rows // 2} THEN 'surface-12@2.4.0' ELSE 'surface-12@2.4.1' END, '{'a' * 64}', 'cpu', "
        "'ort/cpu:0', "
        f"4.5, 640, 480, '', {at_ns}, CASE WHEN i % 3 = 0 THEN 'plate' ELSE 'strip' END"
    )


def _count(execute: Callable[[str], Any], *, postgres: bool = False) -> float:
    """Counts all results as the revision of this release does at its first start; returns seconds."""
    revision = importlib.import_module("lineside_hub.migrations.versions.r0013_counts")
    began = time.perf_counter()
    for statement in revision.count_statements(sqlite=not postgres):
        execute(statement.format(rows="results"))
    return round(time.perf_counter() - began, 2)


def _timed_ms(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(scaled(3, smoke=1)):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return round(1000 * statistics.median(times), 1)


def _make_hub(folder: Path) -> None:
    """Makes a hub's folder with a session, and devices as their own messages make them."""
    Repository.create(folder, groups=[f"line-{number}" for number in range(LINES)], passphrase=None)
    with Database.open(folder) as database:
        timeline = FleetTimeline(database, group_of=lambda _: None)
        draw = random.Random(1)
        bundle = BundleRef(name="surface-12", version="2.4.1", target="line-0/surface-12-2.4.1.json", sha256="1" * 64)
        with database.transaction():
            set_account(database, "bench", "operate", PASSWORD)
            for number in range(DEVICES):
                name = f"cam-{number:04d}"
                up = _is_up(number)
                birth = Up(
                    device=name,
                    up=up,
                    boot_id="b",
                    group=f"line-{number % LINES}",
                    board="rpi5",
                    agent_version="0.1.0",
                    devices=("ort/cpu:0",),
                    engines={"ort": "1.23"},
                )
                timeline.write_up(birth)
                timeline.write_reported(
                    Reported(device=name, installed=bundle, state="active", free_bytes=draw.randrange(10**8, 10**11))
                )


def _is_up(number: int) -> bool:
    return number % AWAY_EVERY != 7


@contextlib.contextmanager
def _hub(folder: Path, url: str) -> Iterator[tuple[psutil.Process, int, LinkConfig]]:
    """Runs broker and hub with its dashboard as processes."""
    port, broker_port = free_port(), free_port()
    with start_broker(folder, broker_port)[0]:
        link = LinkConfig(url=f"mqtt://127.0.0.1:{broker_port}", site="bench")
        settings: dict[str, Any] = {
            "folder": ".",
            "link": {"url": link.url, "site": link.site},
            "web": {"port": port},
        }
        if url:
            settings["results"] = {"url": url}
        (folder / "hub.toml").write_text(tomli_w.dumps(settings))
        command = [sys.executable, "-m", "lineside_hub", "run", "--config", str(folder / "hub.toml")]
        with Child(command, folder / "hub.log") as hub:
            _wait_for(port, hub)
            yield psutil.Process(hub.process.pid), port, link


def _wait_for(port: int, hub: Child) -> None:
    for _ in range(600):
        hub.check()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise SystemExit(f"the hub did not start: {hub.log.read_text()[-2000:]}")


def _serve(folder: Path, url: str) -> dict[str, Any]:
    with Database.open(folder) as database:
        cookie = begin_session(database, "bench")
    with _hub(folder, url) as (hub, port, link):
        _say("pages")
        pages = {name: _page(port, cookie, path, hub) for name, path in PAGES.items()}
        peak = _peak(hub)
        hostile = _attack(port, cookie, hub)
        live = _measure_live(folder, link, port, cookie, hub)
        fleet_ms = max(pages["fleet"]["p95_ms"], live["pages"]["fleet"]["p95_ms"])
        return {
            "pages": pages,
            "hub_rss_bytes": peak,
            "hostile": hostile,
            "live": live,
            "reached": {
                "fleet_page_p95_ms": fleet_ms <= BARS["fleet_page_p95_ms"],
                "pareto_p95_ms": max(pages["pareto"]["p95_ms"], live["pages"]["pareto"]["p95_ms"])
                <= BARS["pareto_p95_ms"],
                "hub_rss_bytes": max(peak, hostile["hub_rss_bytes"], live["hub_rss_bytes"]) <= BARS["hub_rss_bytes"],
            },
        }


def _measure_live(folder: Path, link: LinkConfig, port: int, cookie: str, hub: psutil.Process) -> dict[str, Any]:
    """Measures all pages while simulated devices inspect and report."""
    groups = {f"cam-{number:04d}": f"line-{number % LINES}" for number in range(DEVICES) if _is_up(number)}
    _say(f"{len(groups)} simulated devices")
    with LiveFleet(folder, link, groups, folder.parent / "fleet") as fleet:
        fleet.begin(LIVE_START_S)
        fleet.inspect(every_s=scaled(LIVE_EVERY_S, smoke=0.2), parts=LIVE_PARTS)
        _say("pages beside them")
        began, before = time.monotonic(), fleet.results()
        pages = {name: _page(port, cookie, path, hub) for name, path in PAGES.items()}
        seconds, after = time.monotonic() - began, fleet.results()
    return {
        "devices": len(groups),
        "pages": pages,
        "results_a_second": round((after["acknowledged"] - before["acknowledged"]) / seconds, 1),
        "results_waiting": after["made"] - after["acknowledged"],
        "hub_rss_bytes": _peak(hub),
    }


def _page(port: int, cookie: str, path: str, hub: psutil.Process) -> dict[str, float]:
    times = []
    _get(port, cookie, path)
    before = _processor_s(hub)
    for _ in range(REQUESTS):
        began = time.perf_counter()
        status, _size = _get(port, cookie, path)
        times.append(1000 * (time.perf_counter() - began))
        if status != 200:
            raise SystemExit(f"{path} was answered {status}")
    spent = _processor_s(hub) - before
    return {
        "median_ms": round(statistics.median(times), 1),
        "p95_ms": round(sorted(times)[max(0, round(0.95 * len(times)) - 1)], 1),
        "processor_ms": round(1000 * spent / REQUESTS, 1),
    }


def _processor_s(hub: psutil.Process) -> float:
    """Returns processor time of hub and PostgreSQL servers, those that ended included."""
    total = sum(hub.cpu_times()[:2])
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "postgres":
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
    return float(total)


def _get(port: int, cookie: str, path: str, **headers: str) -> tuple[int, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers={"Cookie": f"{COOKIE}={cookie}", **headers})
        answer = connection.getresponse()
        return answer.status, len(answer.read())
    finally:
        connection.close()


def _post(port: int, cookie: str, body: bytes, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    sent = {"Cookie": f"{COOKIE}={cookie}", "Content-Type": "application/json", **headers}
    try:
        connection.request("POST", "/api/v1/results/a/b/1/mark", body, sent)
        return connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        return 413  # closed while the body was still being sent
    finally:
        connection.close()


def _attack(port: int, cookie: str, hub: psutil.Process) -> dict[str, Any]:
    _say("hostile clients")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    opened: list[socket.socket] = []
    times: list[float] = []
    refused = 0
    try:
        for number in range(CONNECTIONS):
            with contextlib.suppress(OSError):
                one = socket.create_connection(("127.0.0.1", port), 1, source_address=("127.0.0.2", 0))
                opened.append(one)
                whole = f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {COOKIE}={cookie}\r\n\r\n"
                one.sendall(whole.encode() if number % 50 == 0 else b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        for _ in range(REQUESTS):
            began = time.perf_counter()
            try:
                refused += _get(port, cookie, "/alarms")[0] != 200
            except OSError:
                refused += 1
            times.append(time.perf_counter() - began)
    finally:
        for one in opened:
            one.close()
    origin = {"Origin": f"http://127.0.0.1:{port}"}
    time.sleep(scaled(5.0, smoke=0.5))
    return {
        "connections": len(opened),
        "usual_requests": REQUESTS,
        "usual_requests_refused": refused,
        "usual_p95_ms": round(1000 * sorted(times)[max(0, round(0.95 * len(times)) - 1)], 1),
        "oversized_body": _post(port, cookie, b"x" * (4 << 20), **origin),
        "wrong_host": _get(port, cookie, "/", Host="evil.example")[0],
        "stolen_cookie": _get(port, "0" * 43, "/api/v1/results")[0],
        "other_site": _post(port, cookie, b'{"wrong": true}', Origin="https://evil.example"),
        "answers_afterwards": _get(port, cookie, "/alarms")[0] == 200,
        "hub_rss_bytes": _peak(hub),
    }


def _peak(hub: psutil.Process) -> int:
    """Returns the highest resident memory so far."""
    for line in Path(f"/proc/{hub.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return int(hub.memory_info().rss)
