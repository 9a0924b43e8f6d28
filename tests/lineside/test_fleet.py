"""``lineside fleet`` and the rollout's options of ``lineside push``, as a person types them."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path

import pytest
import tomli_w

from lineside.cli import main
from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.folder_lock import running_lock
from lineside_hub.link_monitor import NAME as LINK_STATE
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.results.streams import read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_hub.rollouts.runner import Rollouts
from lineside_hub.simulate.bundles import make_bundle
from lineside_link.messages import (
    BundleRef,
    ConfigRef,
    ConfigReport,
    Desired,
    DriftAlarm,
    DriftReport,
    Problem,
    Reported,
    ResultRow,
    Results,
    Up,
    encode,
)
from tests.worlds.hub import make_database, make_repository, open_database

GROUP = "line-a"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Three devices that are up, with a result each."""
    folder = tmp_path / "hub"
    make_repository(folder, [GROUP])
    config = {"folder": ".", "link": {"url": "mqtt://127.0.0.1:1883", "site": "test"}}
    (folder / "hub.toml").write_text(tomli_w.dumps(config))
    database = open_database(folder)
    sink = ResultsSink(database)
    with database.transaction():
        for number in (1, 2, 3):
            name = f"cam-{number}"
            FleetTimeline(database).write_up(Up(device=name, up=True, boot_id="b", group=GROUP, board="Pi 5"))
            FleetTimeline(database).write_reported(Reported(device=name, state="fetching", progress=0.25))
            row = ResultRow(seq=1, part_id=f"part-{number}", captured_at_ns=number * 10**18, verdict="pass")
            sink.write([read_batch(name, encode(Results(epoch="e", rows=(row,))))])
    database.close()
    return folder


def test_a_device_that_the_hub_does_not_know_is_not_released(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "release", "cam-1", "--hub", str(hub)]) == 0
    assert "it had no desired state of its own" in capsys.readouterr().err
    assert main(["fleet", "release", "cam-99", "--hub", str(hub)]) == 1
    assert "the hub has not heard of 'cam-99'" in capsys.readouterr().err


def test_ls_and_show_say_which_configuration_a_device_follows_and_should(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict, loose = (ConfigRef(target=f"{GROUP}/config-{digit * 16}.toml", sha256=digit * 64) for digit in "ab")
    error = Problem(code=2001, error="ConfigError", message="$.inspect.threads: Expected `int`")
    database = Database.open(hub)
    with database.transaction():
        follows = ConfigReport(installed=strict, wanted=strict)
        FleetTimeline(database).write_reported(Reported(device="cam-1", configuration=follows))
        refused = ConfigReport(wanted=loose, error=error)
        FleetTimeline(database).write_reported(Reported(device="cam-2", configuration=refused))
    database.close()
    lines = {line.split()[0]: line for line in told(capsys, "ls", "--hub", str(hub)).splitlines() if line.split()}
    assert "aaaaaaaaaaaa" in lines["cam-1"] and "wanted" not in lines["cam-1"]
    devices = json.loads(told(capsys, "ls", "--hub", str(hub), "--json"))["devices"]
    assert [device["configuration"] for device in devices] == ["config@aaaaaaaaaaaa", "", ""]
    assert [device["wanted_configuration"] for device in devices] == ["config@aaaaaaaaaaaa", "config@bbbbbbbbbbbb", ""]
    shown = told(capsys, "show", "cam-2", "--hub", str(hub))
    assert "its own agent.toml" in shown and "[2001] $.inspect.threads" in shown


@pytest.fixture
def pushed(hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    bundle = str(make_bundle(tmp_path / "bundle", 1, 4096).path)
    plan = ["--canary", "cam-2", "--phases", "50%,100%", "--max-failed", "0.2", "--healthy-for", "5"]
    assert main(["push", bundle, "--hub", str(hub), "--group", GROUP, "--json", *plan]) == 0
    said: dict[str, object] = json.loads(capsys.readouterr().out)
    return said


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["fleet", *arguments]) == 0
    return capsys.readouterr().out


def test_ls_and_show_say_where_devices_stand(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "ls", "--hub", str(hub))
    assert "cam-1" in out
    assert "fetching 25%" in out
    assert "Pi 5" in told(capsys, "show", "cam-1", "--hub", str(hub))
    devices = json.loads(told(capsys, "ls", "--hub", str(hub), "--json"))["devices"]
    assert [(device["name"], device["results"]) for device in devices] == [(f"cam-{n}", 1) for n in (1, 2, 3)]
    assert main(["fleet", "show", "cam-9", "--hub", str(hub)]) == 1


def test_who_is_connected_and_what_goes_on_is_not_said_while_the_hub_hears_nobody(
    hub: Path, pushed: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    rollout, folder = str(pushed["rollout"]), str(hub)
    with running_lock(hub):
        for problem, up in (("", "yes"), ("the hub has no connection", "?")):
            (hub / LINK_STATE).write_text(json.dumps({"problem": problem}))
            [row] = [line for line in told(capsys, "ls", "--hub", folder).splitlines() if line.startswith(" cam-1")]
            assert row.split()[2] == up
            assert (problem or "cam-1, up\n") in told(capsys, "show", "cam-1", "--hub", folder)
            assert ("waits:" in told(capsys, "rollout", "show", rollout, "--hub", folder)) == bool(problem)
    assert "the hub was killed" in told(capsys, "rollout", "show", rollout, "--hub", folder)
    (hub / LINK_STATE).unlink()  # as a hub does that a person ends
    assert "waits: the hub does not run" in told(capsys, "rollout", "ls", "--hub", folder)
    assert main(["fleet", "ls", "--hub", folder]) == 0
    assert "the hub does not run" in capsys.readouterr().err


def test_a_hub_without_devices_says_so_and_a_folder_of_no_hub_is_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hub").mkdir()
    make_database(tmp_path / "hub")
    assert main(["fleet", "ls", "--hub", str(tmp_path / "hub")]) == 0
    assert "no device has connected yet; enroll one" in capsys.readouterr().err
    assert main(["fleet", "ls", "--hub", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("lineside fleet: [2002]")


def test_a_drift_alarm_of_a_device_is_shown(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alarm = DriftAlarm(name="bad-high", since_ns=1, text="bad-high: 30% of the parts are bad, 2.0% is well")
    database = Database.open(hub)
    with database.transaction():
        drift = DriftReport(alarms=(alarm,))
        FleetTimeline(database).write_reported(Reported(device="cam-2", state="active", drift=drift))
    database.close()
    assert "30% of the parts" in " ".join(told(capsys, "ls", "--hub", str(hub)).split())
    assert alarm.text in told(capsys, "show", "cam-2", "--hub", str(hub))
    assert alarm.text in told(capsys, "logs", "cam-2", "--hub", str(hub))
    devices = json.loads(told(capsys, "ls", "--hub", str(hub), "--json"))["devices"]
    assert [device["drift"] for device in devices] == [[], [alarm.text], []]


def test_a_failed_attempt_is_shown_with_what_was_found_below_the_table(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = Problem(
        code=5001, error="X", message="other outputs,\n" * 8 + "end", expected="cosine ≥ 0.98", actual="cosine 0.1"
    )
    database = Database.open(hub)
    with database.transaction():
        FleetTimeline(database).write_reported(Reported(device="cam-2", state="rolled_back", error=error))
    database.close()
    [logged] = [line for line in told(capsys, "logs", "cam-2", "--hub", str(hub)).splitlines() if "outputs" in line]
    assert "expected cosine ≥ 0.98, got cosine 0.1" in logged
    assert "outputs,\\nother" in next(
        line for line in told(capsys, "show", "cam-2", "--hub", str(hub)).splitlines() if line.startswith("error")
    )
    table = told(capsys, "ls", "--hub", str(hub)).splitlines()
    said = [line for line in table if "outputs,\\nother" in line]
    assert len(said) == 1
    assert said[0].startswith(" cam-2: bundle: [5001]")
    assert max(len(line.rstrip()) for line in table if line not in said) < 100


def test_show_says_what_a_device_waits_for(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "maintenance window from 22:00"
    database = Database.open(hub)
    with database.transaction():
        FleetTimeline(database).write_reported(Reported(device="cam-2", state="staged", waiting=text))
    database.close()
    assert text in told(capsys, "show", "cam-2", "--hub", str(hub))


def test_show_names_each_artifact_that_is_desired(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = BundleRef(name="agent", version="0.9", target="line-a/agent-0.9.agent.json", sha256="0" * 64)
    with open_database(hub) as database, database.transaction():
        database.add_desired(f"g/{GROUP}", Desired(epoch=0, gen=0, agent=agent), artifact="agent")
    assert f"{'desired, group':<15}agent@0.9" in told(capsys, "show", "cam-2", "--hub", str(hub))


def test_a_healthy_canary_says_until_when_it_waits(
    hub: Path, pushed: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("rollout", "show", str(pushed["rollout"]), "--hub", str(hub))
    assert "the next phase begins" not in told(capsys, *words)
    database = Database.open(hub)
    desired = database.desired_state("d/cam-2")
    assert desired is not None
    runs = Reported(
        device="cam-2",
        state="active",
        epoch=desired.epoch,
        gen=desired.gen,
        wanted=desired.bundle,
        installed=desired.bundle,
    )
    with database.transaction():
        FleetTimeline(database).write_reported(runs)
    Rollouts(database).tick(1_000_000.0)
    database.close()
    until = datetime.datetime.fromtimestamp(1_000_005.0).isoformat(" ", "seconds")
    assert f"if that lasts until {until}, the next phase begins" in told(capsys, *words)


def test_a_device_or_group_that_the_hub_does_not_know_is_an_error_and_not_an_empty_list(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = ["relabel", "export", "--out", str(tmp_path / "out"), "--device", "cam-l"]
    for words in (
        ["fleet", "results", "--device", "cam-l"],
        ["fleet", "results", "--device", "cam-l", "--out", str(tmp_path / "x.csv")],
        ["fleet", "interactions", "--device", "cam-l"],
        ["fleet", "logs", "cam-l"],
        ["fleet", "recipe", "cam-l", "a"],
        export,
    ):
        assert main([*words, "--hub", str(hub)]) == 1
        assert "[2002] the hub has not heard of 'cam-l' (did you mean `cam-" in capsys.readouterr().err
    assert main(["fleet", "rollout", "ls", "--group", "line-x", "--hub", str(hub)]) == 1
    assert "no group 'line-x'" in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
    assert main(["fleet", "results", "--device", "cam-1", "--part", "none", "--hub", str(hub)]) == 0
    assert "no result is like that" in capsys.readouterr().err


def test_push_takes_a_plan_and_rollout_shows_pauses_and_aborts_it(
    hub: Path, pushed: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert pushed["devices"] == ["cam-2"]
    rollout = str(pushed["rollout"])
    shown = json.loads(told(capsys, "rollout", "show", rollout, "--hub", str(hub), "--json"))
    assert shown["rollout"]["plan"]["max_failed"] == 0.2
    assert shown["rollout"]["plan"]["stages"][1]["share"] == 0.5
    assert shown["members"] == 3
    assert "1 of 3" in told(capsys, "rollout", "ls", "--hub", str(hub))
    for order, state in (("pause", "paused"), ("resume", "running"), ("abort", "aborted")):
        after = json.loads(told(capsys, "rollout", order, rollout, "--hub", str(hub), "--json"))
        assert after["state"] == state
    assert main(["fleet", "rollout", "resume", rollout, "--hub", str(hub)]) == 1
    assert "[5003]" in capsys.readouterr().err
    out = told(capsys, "rollout", "show", rollout, "--hub", str(hub), "--watch")  # has ended, and so does the watching
    assert "a person aborted it" in out


def test_logs_are_the_timeline_of_a_device(
    hub: Path, pushed: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(capsys, "logs", "cam-1", "--hub", str(hub)).splitlines()
    assert [line.split()[3] for line in lines] == ["up", "fetching"]
    events = json.loads(told(capsys, "logs", "--hub", str(hub), "--json"))["events"]
    assert {"up", "fetching", "pushed", "rollout"} <= {event["kind"] for event in events}


def test_results_are_printed_and_exported(hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "results", "--hub", str(hub), "--part", "part-2")
    assert "cam-2" in out
    assert "cam-1" not in out
    found = json.loads(told(capsys, "results", "--hub", str(hub), "--since", "2030-01-01", "--json"))["results"]
    assert [row["device"] for row in found] == ["cam-2", "cam-3"]
    for words, count in ((("--verdict", "pass"), 3), (("--verdict", "reject"), 0), (("--defect", "scratch"), 0)):
        assert len(json.loads(told(capsys, "results", "--hub", str(hub), *words, "--json"))["results"]) == count
    file = tmp_path / "x.csv"
    assert json.loads(told(capsys, "results", "--hub", str(hub), "--out", str(file), "--json"))["rows"] == 3
    with file.open(newline="") as rows:
        assert len(list(csv.DictReader(rows))) == 3
    assert main(["fleet", "results", "--hub", str(hub), "--since", "noon"]) == 1


def test_move_says_what_is_left_to_do(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Repository.open(hub).roles.add_group("line-b")
    assert main(["fleet", "move", "cam-1", "line-b", "--hub", str(hub)]) == 0
    assert 'set group = "line-b"' in capsys.readouterr().err
    assert "line-b (says line-a)" in told(capsys, "ls", "--hub", str(hub))
    assert main(["fleet", "release", "cam-1", "--hub", str(hub)]) == 0


@pytest.mark.parametrize(
    "wrong", [["--canary", "cam-9"], ["--phases", "50%"], ["--max-failed", "2"], ["--healthy-for", "-1"]]
)
def test_an_impossible_plan_is_refused_and_nothing_is_asked_for(
    hub: Path, tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(make_bundle(tmp_path / "bundle", 1, 4096).path)
    assert main(["push", bundle, "--hub", str(hub), "--group", GROUP, *wrong]) == 1
    assert "[5003]" in capsys.readouterr().err
    assert told(capsys, "rollout", "ls", "--hub", str(hub), "--json") == '{"rollouts":[]}\n'


@pytest.mark.parametrize(
    "command", ["ls", "show", "logs", "rollout", "rollout show", "results", "move", "release", "simulate"]
)
def test_every_action_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fleet", *command.split(), "--help"])
    assert ended.value.code == 0
    assert f"usage: lineside fleet {command}" in capsys.readouterr().out


def test_text_of_a_hostile_device_steers_no_terminal(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e[red]x"
    database = Database.open(hub)
    with database.transaction():
        FleetTimeline(database).write_up(Up(device="cam-1", up=True, boot_id=hostile, group=hostile, board=hostile))
        problem = Problem(code=5001, error="Error", message=hostile)
        FleetTimeline(database).write_reported(Reported(device="cam-1", state="failed", error=problem, recipe=hostile))
        row = ResultRow(seq=2, part_id=hostile, captured_at_ns=10**18, verdict="fault", error=hostile, source=hostile)
        ResultsSink(database).write([read_batch("cam-1", encode(Results(epoch="e", rows=(row,))))])
    database.close()
    for words in (("ls",), ("show", "cam-1"), ("logs", "cam-1"), ("results", "--device", "cam-1")):
        shown = told(capsys, *words, "--hub", str(hub))
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown), words
        assert "\\x1b[2J" in shown and "[red]" in shown, words


def test_the_folder_of_the_hub_may_stand_before_and_behind_an_action_of_alarms(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where, action = ["--hub", str(hub)], ["acknowledge", "9"]
    for words in ([*where, *action], [*action, *where]):
        assert main(["hub", "alarms", *words]) == 1
        assert "there is no alarm 9" in capsys.readouterr().err
    assert main(["hub", "alarms", *action]) == 1
    assert "--hub is missing" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--sign-only"], ["--below-baseline"], ["--before", "old"]])
def test_an_option_of_push_that_would_do_nothing_is_refused_before_anything_is_asked_for(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    file = tmp_path / "strict.toml"
    file.write_text("[inspect]\nthreads = 1\n")
    assert main(["push", "--config", str(file), "--hub", str(hub), "--group", GROUP, *options]) == 1
    assert f"{options[0]} without" in capsys.readouterr().err
    assert main(["push", "surface-12", "--hub", str(hub), "--group", GROUP, "--sign-only", "--canary", "2"]) == 1
    assert "--sign-only with an option of a rollout" in capsys.readouterr().err
    with open_database(hub) as database:
        assert database.desired_states() == {}


def test_a_push_whose_first_phase_finds_no_device_says_that_it_waits(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database.open(hub)
    with database.transaction():
        for number in (1, 2, 3):
            FleetTimeline(database).write_up(Up(device=f"cam-{number}", up=False, boot_id="b", group=GROUP))
    database.close()
    assert main(["push", str(make_bundle(tmp_path / "bundle", 1, 4096).path), "--hub", str(hub), "--group", GROUP]) == 0
    assert "no device of line-a for the first phase is connected: it waits for one" in capsys.readouterr().out
