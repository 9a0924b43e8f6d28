"""The whole agent as a process, and its link with a real broker."""

from __future__ import annotations

import os
import pty
import signal
import time
import tty
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from lineside.cli import main
from lineside_agent.health.drift.monitor import request
from lineside_agent.line_io.local import TriggerRequest
from lineside_agent.line_io.local import ask as trigger
from lineside_hub.fleet.timeline import FleetTimeline
from lineside_link.client.client import LinkClient
from lineside_link.log_filter import SHOWN
from lineside_link.messages import RecipeAnswer, RecipeCommand, Reported, Up, decode, encode
from lineside_link.topics import Topics
from lineside_runtime.bundle import Bundle
from tests.boards.machines import raspberry_pi_5
from tests.peers import Broker
from tests.peers.waiting import free_port, wait_for
from tests.worlds.agent import DEVICE, AgentProcess, folder_camera, write_agent, write_frames
from tests.worlds.bundles import shade
from tests.worlds.hub import make_trusted_repository, open_database, write_hub

Start = Callable[..., AgentProcess]


@pytest.fixture
def start(tmp_path: Path, bundle: Bundle) -> Iterator[Start]:
    """Starts an agent on ``count`` images, which goes on or ends after them."""
    agents: list[AgentProcess] = []
    (tmp_path / "frames").mkdir()

    def make(*, frames: int = 6, tables: str = "", exit_when_done: bool = True, **settings: Any) -> AgentProcess:
        write_frames(tmp_path / "frames", frames)
        write_agent(tmp_path, bundle=str(bundle.path), tables=tables, exit_when_done=exit_when_done, **settings)
        agents.append(AgentProcess(tmp_path))
        agents[-1].start()
        return agents[-1]

    yield make
    for agent in agents:
        agent.stop()


def parts(agent: AgentProcess) -> list[tuple[str, str]]:
    return [(row.part_id, row.verdict) for row in agent.rows()]


def test_batch_without_a_hub_ends_with_a_verdict_a_frame_which_the_line_hears(start: Start) -> None:
    ours, theirs = pty.openpty()
    tty.setraw(ours)
    line = f'[[line_io]]\ntype = "serial"\nport = "{os.ttyname(theirs)}"\n'
    agent = start(tables=f'[store]\nkeep_images = "bad"\n{line}')
    assert agent.wait() == 0, agent.log
    heard = os.read(ours, 65536).decode().splitlines()
    assert heard == [f"V {n} {'REJECT' if n % 2 else 'PASS'} {n:04d}.png" for n in range(6)]
    os.close(ours)
    os.close(theirs)
    status = agent.status
    assert (status["frames"], status["inspected"], status["passed"], status["rejected"]) == (6, 6, 3, 3)
    assert (status["faults"], status["fallbacks"], status["lost"], status["dropped"]) == (0, 0, 0, 0)
    assert (status["state"], status["installed"], status["source_finished"]) == ("active", "bright-spots@1.0.0", True)
    assert (status["requested_device"], status["used_device"]) == ("cpu:0", "ort/cpu:0")
    assert (status["outbox_pending"], status["line_io"][0]["sent"]) == (6, 6)
    assert parts(agent) == [(f"{n:04d}.png", "reject" if n % 2 else "pass") for n in range(6)]
    (images,) = (agent.state / "images").iterdir()
    assert sorted(path.name for path in images.iterdir()) == ["00000001.png", "00000003.png", "00000005.png"]


def test_an_engine_whose_process_is_killed_is_started_again_and_nothing_takes_over(start: Start) -> None:
    isolated = '[inspect]\nisolate = ["ort"]\n'
    agent = start(exit_when_done=False, camera=folder_camera(loop=True, rate_hz=20.0), tables=isolated)
    wait_for(lambda: agent.status.get("inspected", 0) > 0, 60)
    for kill in range(1, 4):
        (engine,) = psutil.Process(agent.pid).children()
        assert "bootstrap.py" in " ".join(engine.cmdline())
        engine.kill()
        at_s = time.monotonic()
        wait_for(lambda: agent.status["engine_restarts"] == kill, 60)  # noqa: B023  it is called in this round
        before = agent.status["inspected"]
        wait_for(lambda: agent.status["inspected"] > before + 10, 60)  # noqa: B023
        time.sleep(max(0.0, at_s + 2**kill - time.monotonic()))  # the next one is started at once only after a pause
    status = agent.status
    assert (status["requested_device"], status["used_device"], status["faults"]) == ("cpu:0", "ort/cpu:0", 0)
    assert "openvino" not in Path(f"/proc/{agent.pid}/maps").read_text(), "no other engine was loaded"
    assert agent.log.count("ort/cpu:0 answers again, in a new process") == 3


def test_damaged_images_are_faults_that_fill_no_log_and_a_second_run_inspects_what_is_new_alone(
    start: Start, tmp_path: Path
) -> None:
    damaged = [f"0002x{n:02d}.png" for n in range(40)]
    for name in damaged:
        (tmp_path / "frames" / name).write_bytes(b"rubbish")
    agent = start(tables="[inspect]\nconfidence_threshold = 0.95\n")  # the bundle's own is lower
    assert agent.wait() == 0
    assert (agent.status["inspected"], agent.status["faults"], agent.status["rejected"]) == (46, 40, 3)
    assert 1 <= agent.log.count("is a fault") <= 2 * SHOWN, agent.log
    doubtful = shade(140)  # a score of sigmoid(40 * (140 / 255 - 0.5)) = 0.88
    cv2.imwrite(str(tmp_path / "frames" / "9999.png"), doubtful)
    agent.start()
    assert agent.wait() == 0
    assert agent.status["inspected"] == 1
    judged = [(f"{n:04d}.png", "reject" if n % 2 else "pass") for n in range(6)]
    faults = [(name, "fault") for name in damaged]
    assert parts(agent) == [*judged[:3], *faults, *judged[3:], ("9999.png", "pass")]


def test_terminated_agent_ends_cleanly_and_goes_on_later(start: Start) -> None:
    agent = start(frames=40, camera=folder_camera(rate_hz=20.0), tables="[inspect]\nworkers = 3\n")
    wait_for(lambda: agent.status.get("inspected", 0) > 4)
    assert agent.stop() == 0
    assert 4 < len(parts(agent)) < 40
    agent.start()
    assert agent.wait() == 0
    assert [part for part, _ in parts(agent)] == [f"{n:04d}.png" for n in range(40)]


def test_second_agent_on_the_same_folder_is_refused(start: Start) -> None:
    agent = start(exit_when_done=False)
    wait_for(lambda: agent.status.get("source_finished"))
    first = agent.child
    agent.start()
    assert agent.wait() == 1
    assert "another agent uses" in agent.log
    assert first.poll() is None
    first.terminate()
    first.wait(60.0)


def test_batch_without_images_ends_with_an_error(start: Start) -> None:
    agent = start(frames=0)
    assert agent.wait() == 1
    assert "holds no image" in agent.log


# -- on the link ---------------------------------------------------------------------------------------------------


class Listener:
    """Observes one device as the hub does."""

    def __init__(self, broker: Broker) -> None:
        self.topics = Topics("t0")
        self.ups: list[Up] = []
        self.reports: list[Reported] = []
        self.client = LinkClient(broker.config("listener"), "listener")
        self.client.subscribe(self.topics.up("cam-1"), lambda _, data: self.ups.append(decode(data, Up)))
        self.client.subscribe(
            self.topics.reported("cam-1"), lambda _, data: self.reports.append(decode(data, Reported))
        )
        self.client.start()
        assert self.client.wait_connected(60.0)


@pytest.fixture
def listener(mosquitto: Broker) -> Iterator[Listener]:
    made = Listener(mosquitto)
    yield made
    made.client.close()


@pytest.fixture
def linked(start: Start, mosquitto: Broker, tmp_path: Path) -> AgentProcess:
    """A connected agent with a factory bundle, without a hub that pushes another."""
    make_trusted_repository(tmp_path)
    return start(exit_when_done=False, link=mosquitto.config(DEVICE))


def test_the_hub_hears_what_a_device_is_that_it_is_there_and_when_it_is_gone(
    linked: AgentProcess, listener: Listener, mosquitto: Broker
) -> None:
    ups, reports = listener.ups, listener.reports
    wait_for(lambda: ups)
    assert ups[0].up
    wait_for(lambda: ups[-1].engines, 120.0, what="a second birth, with the engines")
    birth = ups[-1]
    assert (birth.device, birth.up, birth.group) == ("cam-1", True, "default")
    assert "ort/cpu:0" in birth.devices
    assert birth.engines["ort"]
    assert birth.agent_version
    wait_for(lambda: reports and reports[-1].installed is not None, what="the report of the factory bundle")
    report = reports[-1]
    assert report.installed is not None
    assert (report.installed.identity, report.state) == ("bright-spots@1.0.0", "active")
    assert report.free_bytes > 0

    reports.clear()
    ups.clear()
    mosquitto.kill()  # and with it everything that was retained
    mosquitto.start()
    wait_for(lambda: reports and ups and ups[-1].up, what="both again with the next connection")

    late = Up(device="cam-1", up=False, boot_id=birth.boot_id)
    listener.client.publish(listener.topics.up("cam-1"), encode(late), qos=1, retain=True)
    wait_for(lambda: [one.up for one in ups][-2:] == [False, True], what="a late last will corrected")
    foreign = Up(device="cam-1", up=True, boot_id="somebody-else")
    listener.client.publish(listener.topics.up("cam-1"), encode(foreign), qos=1, retain=True)
    wait_for(lambda: linked.status.get("name_conflicts") == 1)
    assert "another agent (boot id somebody-else) is connected as cam-1" in linked.log

    linked.signal(signal.SIGTERM)
    wait_for(lambda: not ups[-1].up, what="its goodbye")
    assert ups[-1].boot_id == birth.boot_id
    assert linked.wait(60.0) == 0
    linked.start()
    wait_for(lambda: ups[-1].up and ups[-1].boot_id != birth.boot_id, what="its successor")
    wait_for(lambda: linked.status.get("boot_id") == ups[-1].boot_id)
    assert linked.status["name_conflicts"] == 0
    linked.kill()
    wait_for(lambda: not ups[-1].up, what="the last will of a killed agent")


def test_agent_inspects_without_a_broker(start: Start, mosquitto: Broker, tmp_path: Path) -> None:
    make_trusted_repository(tmp_path)
    mosquitto.kill()
    agent = start(exit_when_done=False, link=mosquitto.config(DEVICE))
    wait_for(lambda: agent.status.get("source_finished"))
    assert (agent.status["inspected"], agent.status["connected"], agent.status["outbox_pending"]) == (6, False, 6)
    assert "4003" in agent.status["link_problem"]
    mosquitto.start()
    wait_for(lambda: agent.status["connected"])


def test_a_lamp_that_fails_is_told_to_people_to_prometheus_and_to_the_hub(
    start: Start,
    mosquitto: Broker,
    listener: Listener,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_trusted_repository(tmp_path)
    rng = np.random.default_rng(1)
    for number in range(180):
        grey = 100 if number < 120 else 60
        noise = rng.integers(grey, grey + 20, (96, 96), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "frames" / f"{number:04d}.png"), noise)
    port = free_port()
    drift = f"[drift]\nreference_frames = 100\n[metrics]\nport = {port}\n"
    agent = start(frames=0, exit_when_done=False, link=mosquitto.config(DEVICE), tables=drift)
    wait_for(lambda: agent.status.get("drift", {}).get("alarm"), 60.0)
    wait_for(lambda: listener.reports and listener.reports[-1].drift and listener.reports[-1].drift.alarms)
    report = listener.reports[-1].drift
    assert report is not None
    assert "brightness-low" in {alarm.name for alarm in report.alarms}
    assert "brightness-low: brightness is" in agent.log
    assert any(text.startswith("brightness-low") for text in agent.status["drift"]["alarms"])
    capsys.readouterr()
    assert main(["agent", "drift", "--config", str(agent.config_path)]) == 1
    told = capsys.readouterr().out
    assert "brightness-low: brightness is" in told
    assert not {"[", "{", "None", "True"} & set(told.replace("[", " [ ").split())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        assert 'lineside_drift_alarm{device="cam-1"} 1.0' in answer.read().decode()
    for told in ("done", "there is no alarm"):
        assert main(["agent", "drift", "--clear", "--config", str(agent.config_path)]) == 0
        assert capsys.readouterr().err == f"{told}\n"
        wait_for(lambda: not agent.status["drift"]["alarm"], what="the end of the alarm")


def test_recipe_and_degradation_are_reported_and_the_hub_changes_the_recipe_where_it_may_and_once(
    start: Start,
    mosquitto: Broker,
    listener: Listener,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = make_trusted_repository(tmp_path).folder
    write_hub(hub, mosquitto.config())
    with open_database(hub) as database, database.transaction():
        FleetTimeline(database).write_up(Up(device=DEVICE, up=True, boot_id="b"))
    (tmp_path / "board").mkdir()
    raspberry_pi_5(tmp_path / "board", temperature="79000")
    link = mosquitto.config(DEVICE)
    tables = (
        '[store]\nkeep_images = "all"\n[degrade]\nsystem = "board"\nhold_s = 0.1\nlook_every_s = 0.1\n'
        '[[recipe]]\nname = "housing-a"\n[[recipe]]\nname = "housing-b"\n'
    )

    def ask_for(recipe: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["fleet", "recipe", "cam-1", recipe, "--hub", str(hub), "--timeout", "60"])
        return code, "".join(capsys.readouterr())

    agent = start(exit_when_done=False, link=link, tables=tables)
    wait_for(lambda: listener.reports and listener.reports[-1].degradation, 60.0, what="a report of the step")
    report = listener.reports[-1]
    assert report.recipe == "housing-a"
    assert report.degradation is not None
    assert (report.degradation.steps, report.degradation.reason) == (("images",), "79 °C, hot from 75 °C on")
    code, said = ask_for("housing-b")
    assert code != 0 and "recipe_from_hub = true" in said
    assert (agent.status["recipe"], agent.status["changeovers"]) == ("housing-a", 0)
    agent.stop()

    agent = start(exit_when_done=False, recipe_from_hub=True, link=link, tables=tables)
    wait_for(lambda: agent.alive and agent.status.get("connected"), 60.0)
    assert ask_for("housing-b") == (0, "cam-1: recipe housing-b runs\n")
    wait_for(lambda: listener.reports[-1].recipe == "housing-b", what="a report of the recipe")
    wait_for(lambda: agent.status["recipe"] == "housing-b")
    code, said = ask_for("housing-x")
    assert code != 0 and "housing-a (1), housing-b (2)" in said and said.count("2020") == 1
    answers: list[RecipeAnswer] = []
    topics = Topics("t0")
    listener.client.subscribe(topics.recipe_answer("cam-1"), lambda _, data: answers.append(decode(data, RecipeAnswer)))
    again = encode(RecipeCommand(id="same", recipe="housing-a"))
    for count in range(1, 4):
        listener.client.publish(topics.recipe_command("cam-1"), again, qos=0)
        wait_for(lambda: len(answers) >= count)  # noqa: B023
    assert {(answer.id, answer.recipe, answer.error) for answer in answers} == {("same", "housing-a", None)}
    wait_for(lambda: agent.status["changeovers"] == 2, what="one to b, and one back for three commands")


def test_a_line_that_drift_stops_rejects_until_a_person_clears_it(start: Start, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for number in range(200):
        grey = 100 if number < 110 else 60
        noise = rng.integers(grey, grey + 20, (96, 96), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "frames" / f"{number:04d}.png"), noise)
    tables = "[trigger]\ndeadline_ms = 20000\n[drift]\nreference_frames = 100\nstops_line = true\n"
    agent = start(frames=0, exit_when_done=False, tables=tables)
    wait_for(lambda: (agent.status.get("line") or {}).get("ready"), 60.0)
    codes: list[str] = []
    while len(codes) < 150 and "NOT_READY" not in codes:
        codes.append(trigger(agent.state, TriggerRequest("trigger"))["code"])
    assert 110 < len(codes) < 150, codes
    assert set(codes[:-1]) == {"PASS"}
    wait_for(lambda: "brightness-low" in ((agent.status.get("line") or {}).get("problem") or ""))
    request(agent.state, "clear")
    wait_for(lambda: (agent.status.get("line") or {}).get("ready"))
    assert trigger(agent.state, TriggerRequest("trigger"))["code"] == "PASS"
