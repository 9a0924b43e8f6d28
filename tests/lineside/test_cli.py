"""The command line: help, errors, and what it loads."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside.cli import COMMANDS, main
from lineside.console import print_json
from lineside.options import bundle_path
from lineside_models import zoo


def lineside(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lineside", *arguments], capture_output=True, text=True, timeout=60)


def test_help_names_every_command() -> None:
    done = lineside("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_each_command_says_what_it_is_for(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    said = capsys.readouterr()
    assert (ended.value.code, said.err) == (0, "")
    assert COMMANDS[command].split()[0].lower() in said.out.lower()


@pytest.mark.parametrize(("level", "is_told"), [((), True), (("--log-level", "warning"), False)])
def test_an_agent_says_what_it_does_unless_it_is_asked_not_to(
    tmp_path: Path, level: tuple[str, ...], is_told: bool
) -> None:
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames" / "0.png"), np.full((200, 200, 3), 128, np.uint8))
    (tmp_path / "agent.toml").write_text(
        'device = "cam-1"\nfolder = "state"\nbundle = "surface-12"\nexit_when_done = true\n'
        '[camera]\ntype = "folder"\npath = "frames"\n'
    )
    done = lineside(*level, "agent", "run", "--config", str(tmp_path / "agent.toml"))
    assert done.returncode == 0, done.stderr
    assert (" INFO lineside." in done.stderr) == is_told
    assert " ERROR " not in done.stderr


def test_no_command_prints_help_and_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: lineside" in capsys.readouterr().err


def test_ctrl_c_while_a_command_is_loaded_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lineside.cli.parser_of", interrupt)
    assert main(["hub", "status"]) == 130
    assert capsys.readouterr().err == "lineside hub: interrupted\n"


def test_an_unknown_option_is_answered_with_the_usage_of_its_action(capsys: pytest.CaptureFixture[str]) -> None:
    for words, near in ((["--kep", "3"], " (did you mean --keep?)"), (["--out", "x"], ""), (["more"], "")):
        with pytest.raises(SystemExit):
            main(["hub", "prune", "--hub", "hub", *words])
        error = capsys.readouterr().err
        assert error.startswith("usage: lineside hub prune")
        assert f"unrecognized arguments: {' '.join(words)}{near}\n" in error


def test_an_unknown_command_or_choice_is_answered_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    for words, near in ((["trian"], "train"), (["hub", "prun"], "prune"), (["--log-level", "warn", "hub"], "warning")):
        with pytest.raises(SystemExit):
            main(words)
        assert capsys.readouterr().err.endswith(f" (did you mean {near}?)\n")


def test_error_goes_to_stderr_with_code_and_action(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", str(tmp_path / "nothing")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "[2002]" in printed.err
    assert "Give the folder" in printed.err


def test_error_with_json_is_one_object_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", str(tmp_path / "nothing"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == 2002


@pytest.mark.parametrize(
    ("option", "value"), [("--epochs", "0"), ("--max-drop", "3"), ("--target", "toaster"), ("--min-metric", "7")]
)
def test_a_wrong_value_of_an_option_is_answered_with_the_option(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["optimize", "surface-starter", "--level", "2", option, value, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert f"[2001] {option}; expected" in error and error.rstrip().endswith("Correct the option; --help describes it.")
    assert not out.exists()


def test_a_file_that_cannot_be_made_is_an_error_with_a_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for folder, code in ((tmp_path / "file", 2000), (Path("/proc/nothing"), 2002)):
        assert main(["hub", "init", str(folder), "--site", "p", "--group", "g"]) == 1
        assert f"lineside hub: [{code}] {folder}" in capsys.readouterr().err
    command = [sys.executable, "-m", "lineside", "config", "schema", "hub"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1 and b"[4002]" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("of", ["agent", "hub", "messages"])
def test_schema_is_printed_as_json(of: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", of]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$defs"]


def test_config_error_of_the_agent_names_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('device = "a"\ngroup = "g"\nfolder = "s"\n[camera]\ntype = "folder"\npath = "x"\nfps = 3\n')
    assert main(["agent", "status", "--config", str(config)]) == 1
    printed = capsys.readouterr().err
    assert "[2001]" in printed
    assert "$.camera" in printed
    assert "fps" in printed


def test_mistyped_shipped_bundle_is_answered_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--model", "surface-13", "simulator"]) == 1
    said = capsys.readouterr().err
    assert "no shipped bundle 'surface-13'" in said
    assert "one of surface-12, surface-12-float, surface-starter" in said
    assert "Did you mean surface-12?" in said
    assert main(["bench", "elsewhere"]) == 1
    said = capsys.readouterr().err
    assert "no shipped bundle 'elsewhere'" in said and "one of surface-12, " in said
    assert main(["board", "detect", "--bundle", "surfaces"]) == 1
    assert "surface-12" in capsys.readouterr().err


def test_folder_without_a_hub_is_answered_with_the_command_that_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", "surface-12", "--hub", str(tmp_path), "--group", "line-1"]) == 1
    said = capsys.readouterr().err
    assert "lineside hub init" in said and "Repository" not in said


STATUS = {
    "device": "a",
    "group": "line-1",
    "agent_version": "1.2.3",
    "state": "active",
    "ready": False,
    "installed": "surface-12@1.0.0",
    "cameras": [{"source": "top", "frames": 7, "outages": 1, "problem": "[2009] gone"}],
    "camera_problem": "[2009] gone",
    "line": {
        "ready": True,
        "fault": None,
        "triggers": 9,
        "passed": 4,
        "rejected": 3,
        "unsure": 1,
        "faults": 2,
        "late": 2,
    },
    "line_io": [{"name": "gpio", "open": False, "sent": 3, "missed": 1}],
    "results": {"defects": {"pits": 1, "scratches": 2}},
    "degradation": {"steps": ["images"], "reason": "80 C"},
    "steps": [],
}


@pytest.fixture
def status_file(tmp_path: Path) -> Iterator[Path]:
    """``status.json`` of an agent that runs (this process has its lock); its configuration stands beside its folder."""
    config, status = tmp_path / "agent.toml", tmp_path / "s" / "status.json"
    config.write_text('device = "a"\nfolder = "s"\nbundle = "surface-12"\n[camera]\ntype = "simulator"\n')
    status.parent.mkdir()
    status.write_text(json.dumps(STATUS))
    with (status.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield status


def test_status_is_told_in_words(status_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(status_file.parents[1] / "agent.toml")
    assert main(["agent", "status", "--config", config]) == 0
    printed = capsys.readouterr()
    lines = dict(line.split(maxsplit=1) for line in printed.out.splitlines())
    assert lines["device"].startswith("a of group line-1, agent 1.2.3; runs, written 0.")
    assert (lines["line"], lines["bundle"]) == ("ready", "surface-12@1.0.0")
    assert lines["parts"] == "9 since the start: 4 passed, 3 rejected (1 unsure), 2 faults (2 late)"
    assert lines["defects"] == "scratches 2, pits 1"
    assert lines["cameras"] == "top: 7 frames, 1 outage; [2009] gone"
    assert lines["lines"] == "gpio: not open, 3 verdicts sent, 1 missed"
    assert lines["degraded"] == "images: 80 C"
    assert lines["problems"] == "[2009] gone"
    assert printed.err == ""
    assert not {"{", "[]", "None", "False"} & set(printed.out.split())


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (None, "does not trigger: each frame is a part"),
        ({"fault": "LATE"}, "at fault LATE: every part is rejected until `lineside agent trigger --reset`"),
        ({"problem": "no bundle runs"}, "not ready: no bundle runs"),
        ({"triggers": 3, "answered": 2, "passed": 2, "rejected": 0, "faults": 0}, "not ready: a part is under way"),
        ({"challenge_left": 1}, "1 challenge part must be rejected first"),
        ({"challenge_left": 2}, "2 challenge parts must be rejected first"),
    ],
)
def test_status_says_why_the_line_is_not_ready(
    line: dict[str, object] | None, text: str, status_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status_file.write_text(json.dumps({**STATUS, "line": line}))
    assert main(["agent", "status", "--config", str(status_file.parents[1] / "agent.toml")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["line"] == text


def test_status_tells_every_value_and_the_state_of_the_bundle_from_that_of_the_line(
    status_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["agent", "status", "--all", "--config", str(status_file.parents[1] / "agent.toml")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["bundle_state"], lines["has_judged"], lines["line.ready"]) == ("active", "no", "yes")
    assert (lines["line.fault"], lines["line_io.0.open"], lines["steps"]) == ("-", "no", "-")
    assert "state" not in lines and "ready" not in lines


def test_status_names_what_was_pushed_and_is_refused_and_the_bundle_that_a_recipe_runs(
    status_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {
        "configuration_state": "failed",
        "configuration_wanted": "config@0123",
        "configuration_error": "[2001] x",
    }
    recipe = {"recipe": "b", "recipes": ["a", "b"], "models": [{"name": "m", "bundle": "m@2.0.0"}]}
    status_file.write_text(json.dumps({**STATUS, **refused, **recipe}))
    assert main(["agent", "status", "--config", str(status_file.parents[1] / "agent.toml")]) == 0
    out = capsys.readouterr().out
    assert "surface-12@1.0.0; recipe b runs m@2.0.0\n" in out
    assert "the configuration that was pushed last is refused: config@0123: [2001] x\n" in out


def test_status_says_when_it_is_stale(status_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(status_file.parents[1] / "agent.toml")
    os.utime(status_file, (1e9, 1e9))
    assert main(["agent", "status", "--config", config]) == 0
    printed = capsys.readouterr()
    assert "stale" in printed.err
    lines = dict(line.split(maxsplit=1) for line in printed.out.splitlines())
    assert lines["line"] == "last known: ready" and lines["lines"].startswith("last known: gpio")
    assert main(["agent", "status", "--config", config, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stale"] is True


def test_status_of_a_clock_that_was_put_back_has_no_negative_age(
    status_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.utime(status_file, (4e9, 4e9))
    assert main(["agent", "status", "--config", str(status_file.parents[1] / "agent.toml")]) == 0
    assert "s ahead of this clock, which was put back" in capsys.readouterr().out


def test_the_line_of_an_agent_that_has_just_ended_is_not_ready(
    status_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (status_file.parent / "lock").unlink()
    assert main(["agent", "status", "--config", str(status_file.parents[1] / "agent.toml")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert "; does not run, written" in lines["device"] and lines["line"] == "last known: ready"


def test_paths_are_printed_as_text_and_strangers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"weights": Path("run") / "best.pt"})
    assert json.loads(capsys.readouterr().out) == {"weights": "run/best.pt"}
    with pytest.raises(TypeError):
        print_json(object())


def test_a_shipped_bundle_is_found_by_its_name_and_a_folder_of_that_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundle_path("surface-12") == zoo.path("surface-12")
    assert bundle_path("no/such") == Path("no/such")
    (tmp_path / "surface-12").mkdir()
    assert bundle_path("surface-12") == Path("surface-12")


def test_push_names_the_configuration_that_it_refuses_before_it_opens_the_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.toml"
    for text, words in (("[inspect", "is not TOML"), ("[inspect]\nthread = 2\n", "did you mean `threads`?")):
        file.write_text(text)
        assert main(["push", "--config", str(file), "--hub", str(tmp_path / "none"), "--group", "g"]) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"lineside push: [2001] {file}: ") and words in told
