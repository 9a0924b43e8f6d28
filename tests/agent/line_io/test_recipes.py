"""The line changes the recipe by Modbus, text, MQTT, local socket and command line; each record names its recipe."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import tty
from pathlib import Path
from typing import Literal

import pytest

from lineside.cli import main
from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_link.client.client import LinkClient
from lineside_runtime.errors import RequestError
from tests.agent.line_io.conftest import StartLine
from tests.agent.line_io.test_mbpoll import DISCRETE, HOLDING, INPUT, Poll
from tests.agent.line_io.test_modbus_client import plc_server
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.peers.proxy import FaultProxy
from tests.peers.waiting import free_port, wait_for
from tests.worlds.agent import folder_camera

RECIPES = """
[[recipe]]
name = "plain"

[[recipe]]
name = "lenient"
number = 7
[recipe.inspect]
min_size_px = { "*" = 1000 }
"""
"""Under the second every part passes."""


@pytest.mark.peer
def test_modbus_register_changes_over_and_an_unknown_number_is_a_fault(start_line: StartLine) -> None:
    port = free_port()
    agent = start_line(f'[[line_io]]\ntype = "modbus-tcp-server"\nport = {port}\n{RECIPES}')
    agent.wait_ready()
    poll = Poll(port)
    assert poll.run(INPUT, 9) == [1]
    poll.run(HOLDING, 0, 1)
    wait_for(lambda: agent.line["answered"] == 1)
    poll.run(HOLDING, 20, 7)
    wait_for(lambda: poll.run(INPUT, 9) == [7] and poll.run(DISCRETE, 0) == [1], what="ready with recipe 7")
    poll.run(HOLDING, 0, 2)  # a bright part, which this recipe passes
    wait_for(lambda: poll.run(INPUT, 40, count=2) == [0, 2])
    poll.run(HOLDING, 20, 9)
    wait_for(lambda: poll.run(INPUT, 3) == [4], what="fault RECIPE")
    assert poll.run(DISCRETE, 0, count=5)[0] == 0
    poll.run(HOLDING, 0, 3)
    wait_for(lambda: poll.run(INPUT, 40, count=2) == [0, 3])
    poll.run(HOLDING, 20, 1)
    wait_for(lambda: poll.run(INPUT, 9) == [1] and poll.run(DISCRETE, 0) == [1], what="ready with recipe 1")
    assert poll.run(INPUT, 3) == [0]
    assert [poll.run(INPUT, 42 + 4 * part + 3) for part in range(3)] == [[1], [1], [6]]
    agent.stop()
    assert [(row.verdict, row.recipe) for row in agent.rows()] == [
        ("pass", "plain"),
        ("pass", "lenient"),
        ("fault", "lenient"),
    ]
    assert "[2020]" in agent.log


def test_plc_that_is_the_server_says_the_recipe_and_it_counts_from_the_connection_on(start_line: StartLine) -> None:
    port = free_port()
    with plc_server(str(port)) as plc:
        plc.order("recipe 7")
        line = f'[[line_io]]\ntype = "modbus-tcp-client"\nhost = "127.0.0.1"\nport = {port}\nunit = 3\n'
        start_line(line + RECIPES)
        wait_for(lambda: plc.registers[9] == 7 and plc.registers[2] & 1, 60.0, what="ready with recipe 7")
        plc.order("recipe 1")
        wait_for(lambda: plc.registers[9] == 1 and plc.registers[2] & 1, what="ready with recipe 1")


def test_text_names_the_recipe_and_is_told_which_runs(start_line: StartLine, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    tty.setraw(ours)
    tty.setraw(theirs)
    heard = bytearray()

    def lines() -> list[bytes]:
        os.set_blocking(ours, False)
        with contextlib.suppress(BlockingIOError):
            heard.extend(os.read(ours, 65536))
        return bytes(heard).splitlines()

    start_line(f'[[line_io]]\ntype = "serial"\nport = "{os.ttyname(theirs)}"\n{RECIPES}')
    wait_for(lambda: lines()[-1:] == [b"S READY 0 0"], 60.0, what="ready")
    assert b"P plain" in lines()
    os.write(ours, b"P lenient\n")
    wait_for(lambda: b"P lenient" in lines() and lines()[-1] == b"S READY 0 0", what="ready again")
    assert b"S WAIT 0 0" in lines()
    os.write(ours, b"P nonsense\n")
    wait_for(lambda: lines()[-1] == b"S WAIT 4 0", what="fault RECIPE")
    os.write(ours, b"R\n")  # the operator has looked
    wait_for(lambda: lines()[-1] == b"S READY 0 0", what="ready after the reset")
    os.close(ours)
    os.close(theirs)


@pytest.mark.peer
@pytest.mark.parametrize("qos", [0, 1])
def test_a_retained_recipe_is_not_replayed_by_a_reconnection(
    start_line: StartLine, tmp_path: Path, qos: Literal[0, 1]
) -> None:
    broker = Mosquitto(tmp_path / "broker", program=find_mosquitto())
    broker.start()
    proxy = FaultProxy(broker.port)
    url = f"mqtt://127.0.0.1:{proxy.port}"
    link = f'link = {{ url = "{url}", site = "t0", reconnect_min_s = 0.05, reconnect_max_s = 0.2 }}'
    states: list[dict[str, object]] = []
    client = LinkClient(broker.config(), "plc")
    client.subscribe("cell/4/state", lambda _, data: states.append(json.loads(data)))
    client.start()
    try:
        assert client.wait_connected(20.0)
        client.publish("cell/4/recipe", b'{"recipe": "lenient"}', retain=True, qos=qos)
        agent = start_line(f'[[line_io]]\ntype = "mqtt"\ntopic = "cell/4"\n{link}\n{RECIPES}')
        wait_for(lambda: states and states[-1]["recipe"] == "lenient" and states[-1]["ready"], 60.0, what="lenient")
        assert ask(agent.state, TriggerRequest("recipe", recipe="plain"))["done"]
        wait_for(lambda: states[-1]["recipe"] == "plain" and states[-1]["ready"], what="the operator's choice")
        proxy.cut()
        wait_for(lambda: "is retained and was requested before" in agent.log, what="the retained message")
        wait_for(lambda: states[-1]["recipe"], what="the state after the last will of the cut connection")
        assert states[-1]["recipe"] == "plain"
        client.publish("cell/4/recipe", b"not json", qos=qos)
        client.publish("cell/4/recipe", b'{"recipe": "lenient"}', qos=qos)
        wait_for(lambda: states[-1]["recipe"] == "lenient" and states[-1]["ready"], what="the same asked for anew")
    finally:
        client.close()
        broker.stop()


def test_command_changes_over_lists_and_refuses_and_a_restart_keeps_it(
    start_line: StartLine, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = start_line(RECIPES)
    agent.wait_ready()

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["agent", "recipe", "--config", str(agent.config_path), *arguments])
        return code, "".join(capsys.readouterr())

    assert run("lenient") == (0, "recipe lenient runs\n")
    assert [ask(agent.state, TriggerRequest("trigger"))["verdict"] for _ in range(2)] == ["pass", "pass"]
    code, said = run("nonsense", "--json")
    assert (code != 0, json.loads(said.splitlines()[0])["error"]["code"]) == (True, 2020)
    with pytest.raises(RequestError, match="no recipe 'other'"):
        ask(agent.state, TriggerRequest("recipe", recipe="other"))
    assert agent.line["fault"] is None  # who asked was told
    agent.stop()
    agent.start()
    agent.wait_ready()
    assert run() == (0, "  plain\n* lenient\n")
    assert json.loads(run("--json")[1])["recipe"] == "lenient"


def test_line_without_triggers_changes_over_by_its_socket(start_line: StartLine) -> None:
    agent = start_line(RECIPES, trigger={"mode": "watch"}, camera=folder_camera(loop=True, rate_hz=20))
    wait_for(lambda: agent.status.get("rejected"), 60.0, what="a bright frame")
    with pytest.raises(RequestError, match=r"no \[trigger\] table"):
        ask(agent.state, TriggerRequest("trigger"))
    assert ask(agent.state, TriggerRequest("recipe", recipe="lenient")) == {"done": True, "recipe": "lenient"}
    wait_for(lambda: agent.status["changeovers"] == 1)
    inspected = agent.status["inspected"]
    wait_for(lambda: agent.status["inspected"] > inspected + 20, what="more frames")
    agent.stop()
    rows = agent.rows()
    changed = next(place for place, row in enumerate(rows) if row.recipe == "lenient")
    assert {row.recipe for row in rows[:changed]} == {"plain"}
    assert {(row.recipe, row.verdict) for row in rows[changed:]} == {("lenient", "pass")}
